"""list, ps, events, update, spec, features, mounts, messages and help."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import hierarchies
from tests.conformance.runtime.command import Command
from tests.pace import patience


def test_list_and_ps(command: Command) -> None:
    assert command("list", "-f", "json").stdout == "null\n"
    command.start("c1", "sleep", "1000")
    head, row = command("list").stdout.splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    (entry,) = json.loads(command("list", "--format", "json").stdout)
    assert row.split() == [str(entry[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry["created"])
    assert command("list", "-q").stdout == "c1\n"
    assert json.loads(command("ps", "-f", "json", "c1").stdout) == [entry["pid"]]
    head, row = command("ps", "c1").stdout.splitlines()
    assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert row.split()[:2] == ["root", str(entry["pid"])]
    assert row.endswith(" sleep 1000")
    head, row = command("ps", "c1", "-o", "pid,comm").stdout.splitlines()
    assert (head.split(), row.split()) == (["PID", "COMMAND"], [str(entry["pid"]), "sleep"])
    assert "invalid format" in command("list", "-f", "xml", check=1).stdout


def test_events_and_update(command: Command, tmp_path: Path) -> None:
    command.start("c1", "sleep", "1000")

    def stats() -> dict[str, Any]:
        told = json.loads(command("events", "--stats", "c1").stdout)
        assert (told["type"], told["id"]) == ("stats", "c1")
        data: dict[str, Any] = told["data"]
        return data

    assert stats()["pids"]["current"] == 1
    command("update", "--pids-limit", "50", "--memory", "64M", "c1")
    command("update", "c1", "--cpu-share=200")  # as runc: also after the id
    assert (stats()["pids"]["limit"], stats()["memory"]["usage"]["limit"]) == (50, 64 << 20)
    command("update", "-r", "-", "c1", input='{"pids": {"limit": 60}}', stdin=None)
    assert stats()["pids"]["limit"] == 60
    (tmp_path / "resources").write_text('{"memory": {"limit": 33554432}, "devices": [{"allow": true}]}')
    command("update", "--resources", str(tmp_path / "resources"), "c1")
    assert stats()["memory"]["usage"]["limit"] == 32 << 20
    assert "invalid size" in command("update", "--memory", "much", "c1", check=1).stdout
    assert "resctrl" in command("update", "--l3-cache-schema", "L3:0=f", "c1", check=1).stdout


def test_events_tell_of_kills_and_end_with_the_container(command: Command) -> None:
    config = command.configure("sh", "-c", "read x; x=$(dd if=/dev/zero bs=1M count=64 | tr '\\0' a)")
    config["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    command.write(config)
    read, write = os.pipe()
    command.create("c1", stdin=read)
    watching = subprocess.Popen(
        command.words("events", "--interval", "1h", "c1"), stdout=subprocess.PIPE, text=True, env=command.environment
    )
    assert watching.stdout is not None
    with watching.stdout:
        assert json.loads(watching.stdout.readline())["type"] == "stats"
        command("start", "c1")
        os.write(write, b"\n")
        assert json.loads(watching.stdout.readline()) == {"type": "oom", "id": "c1"}
        command("kill", "-a", "c1", "KILL")
        watching.stdout.read()
    assert watching.wait(timeout=patience(20)) == 0
    os.close(read)
    os.close(write)


@pytest.mark.skipif(
    not os.access("/proc/pressure/cpu", os.R_OK) or hierarchies().v2 is None, reason="this kernel keeps no account of pressure"
)
def test_events_tell_of_pressure(command: Command) -> None:
    config = command.configure("sh", "-c", "while :; do :; done & while :; do :; done")
    config["linux"]["resources"]["cpu"] = {"cpus": "0"}  # two that want one processor
    command.write(config)
    command.create("c1")
    watching = subprocess.Popen(
        command.words("events", "--interval", "1h", "c1"), stdout=subprocess.PIPE, text=True, env=command.environment
    )
    assert watching.stdout is not None
    with watching.stdout:
        first = json.loads(watching.stdout.readline())
        assert set(first["data"]["cpu"]["psi"]["some"]) == {"avg10", "avg60", "avg300", "total"}
        command("start", "c1")
        told = json.loads(watching.stdout.readline())
        assert (told["type"], told["data"]["resource"]) == ("pressure", "cpu")
        assert told["data"]["some"]["total"] > first["data"]["cpu"]["psi"]["some"]["total"]
        command("kill", "-a", "c1", "KILL")
        watching.stdout.read()
    assert watching.wait(timeout=patience(20)) == 0


def test_spec_is_a_config_that_runs(command: Command) -> None:
    command("spec", "-b", str(command.bundle))
    config = json.loads((command.bundle / "config.json").read_text())
    assert config["process"]["terminal"] is True
    assert config["root"] == {"path": "rootfs", "readonly": True}
    assert ("cgroup" in {entry["type"] for entry in config["linux"]["namespaces"]}) == (not hierarchies().v1)
    assert "exists" in command("spec", "-b", str(command.bundle), check=1).stdout
    config["process"].update(terminal=False, args=["sh", "-c", "id -u; ulimit -n"])
    config["linux"]["cgroupsPath"] = command.parent + "/box"
    command.write(config)
    assert command.run().stdout == "0\n1024\n"
    command("spec", "--rootless", "-b", str(command.bundle), "-f", "rootless.json")
    rootless = json.loads((command.bundle / "rootless.json").read_text())
    assert rootless["linux"]["uidMappings"] == [{"containerID": 0, "hostID": os.getuid(), "size": 1}]
    assert "resources" not in rootless["linux"]


def test_features(command: Command) -> None:
    told = json.loads(command("features").stdout)
    assert told["linux"]["seccomp"]["enabled"] is True
    assert {"rro", "tmpcopyup", "rbind"} <= set(told["mountOptions"])
    assert (told["linux"]["cgroup"]["v1"], told["linux"]["cgroup"]["v2"]) == (True, True)  # what is understood, not what is here


def test_mounts_are_added_and_removed(command: Command, tmp_path: Path) -> None:
    command.start("c1", "sleep", "1000")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("from the host\n")
    wanted = tmp_path / "mounts.json"
    wanted.write_text(
        json.dumps(
            [
                {"destination": "/tmp/volume", "source": str(volume), "type": "bind", "options": ["rbind", "ro"]},
                {"destination": "/tmp/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
            ]
        )
    )
    command("mounts", "add", "c1", str(wanted))
    assert command("exec", "c1", "cat", "/tmp/volume/file").stdout == "from the host\n"
    assert "Read-only" in command("exec", "c1", "touch", "/tmp/volume/x", check=1).stdout
    assert "tmpfs" in command("exec", "c1", "grep", "/tmp/scratch", "/proc/mounts").stdout
    command("mounts", "remove", "c1", str(wanted))
    assert "/tmp/" not in command("exec", "c1", "cat", "/proc/mounts").stdout
    assert "mounts" in command("mounts", "remove", "c1", str(wanted), check=1).stdout
    wanted.write_text('[{"destination": "/tmp/proc", "type": "proc", "source": "proc"}]')
    assert "belongs to namespaces" in command("mounts", "add", "c1", str(wanted), check=1).stdout


def test_log_file(command: Command, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = command("--log", str(log), "--log-format", "json", "start", "nobody", check=1)
    assert done.stdout == "container does not exist\n"  # a person is told, too
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "container does not exist")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["time"])
    command("--log", f"file:{log}", "start", "nobody", check=1)
    assert re.fullmatch(r'time="[^"]+" level=error msg="container does not exist"', log.read_text().splitlines()[1])
    command.configure("true")
    command("--debug", "--log", str(log), "run", "-b", str(command.bundle), "box")
    assert log.read_text().count("level=debug") == 3
    assert "invalid log-format" in command("--log-format", "xml", "list", check=1).stdout


@pytest.mark.parametrize(("kind", "constant"), [("journald", "JOURNAL"), ("syslog", "SYSLOG")])
def test_log_to_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, constant: str) -> None:
    from agent.runtime.cli import logs

    path = str(tmp_path / "log.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(20)
        monkeypatch.setattr(logs, constant, path)
        logs.Log("wharf-runtime", f"{kind}:berth").warning("two\nlines")
        data = server.recv(4096)
    if kind == "journald":
        assert data == b"SYSLOG_IDENTIFIER=berth\nPRIORITY=4\nMESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n"
    else:
        assert re.fullmatch(rb"<28>berth\[\d+\]: two\nlines", data)


def test_help_and_version(command: Command) -> None:
    for word in ("-h", "--help"):
        assert command(word).stdout.startswith("NAME:\n   wharf-runtime - Open Container Initiative runtime\n")
    assert command("run", "-h").stdout.startswith("NAME:\n   wharf-runtime run - ")
    assert command("help", "exec").stdout == command("exec", "--help").stdout
    assert re.match(r"wharf-runtime version \d+\.\d+\.\d+\ncommit: .*\nspec: 1\.\d+\.\d+\n", command("--version").stdout)
    assert command("foo", "-h", check=3).stdout == "No help topic for 'foo'\n"
    assert command("run", check=1).stdout.endswith('wharf-runtime: "run" requires exactly 1 argument(s)\n')
    assert "flag provided but not defined: -nope" in command("run", "--nope", "x", check=1).stdout
