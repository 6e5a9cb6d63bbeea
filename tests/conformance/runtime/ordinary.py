"""`wharf-runtime` as a user whom the machine does not know: his name and ranges live in a mount namespace of each call."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.cgroup import hierarchies
from tests.conformance.runtime.command import REPOSITORY
from tests.pace import patience

NAME, RANGE = "wharftest", (300_000, 65_536)
INTERPRETER = os.path.realpath(sys.executable)


def free_uid() -> int:
    """One that nobody has."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(uid for uid in range(54_321, 60_000) if uid not in taken)


class Ordinary:
    """`home` holds all that is his: bundle, root filesystem, $XDG_RUNTIME_DIR. Reachable for him, whatever the clone's place."""

    def __init__(self, rootfs: Path) -> None:
        self.uid = free_uid()
        self.home = Path(tempfile.mkdtemp(prefix="wharf-user-"))
        self.home.chmod(0o755)
        self.bundle, self.runtime_dir = self.home / "bundle", self.home / "run"
        self.cgroup = f"/wharf-ordinary-{os.getpid()}"
        (self.home / "program").mkdir()
        self.runtime_dir.mkdir(0o700)
        self.bundle.mkdir()
        # without what containers of other tests mounted on
        ignored = shutil.ignore_patterns("dev", "proc", "sys")
        shutil.copytree(rootfs, self.bundle / "rootfs", symlinks=True, ignore=ignored)
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, self.uid, self.uid, follow_symlinks=False)
        self.known({})
        self._delegated: list[str] = []

    def known(self, ranges: dict[str, tuple[int, int]]) -> None:
        """Write what /etc will hold for him: passwd, group, and `ranges` by "subuid" and "subgid"."""
        (self.home / "passwd").write_text(
            Path("/etc/passwd").read_text() + f"{NAME}:x:{self.uid}:{self.uid}::{self.home}:/bin/sh\n"
        )
        (self.home / "group").write_text(Path("/etc/group").read_text() + f"{NAME}:x:{self.uid}:\n")
        for file in ("subuid", "subgid"):
            lines = [f"{NAME}:{ranges[file][0]}:{ranges[file][1]}\n"] if file in ranges else []
            (self.home / file).write_text("".join(lines))

    def configure(self, *args: str, starter: tuple[str, ...] = (), **process: Any) -> dict[str, Any]:
        """What `spec` gives him, with `args` and changes of `process`; written, and returned to be changed."""
        (self.bundle / "config.json").unlink(missing_ok=True)
        self("spec", *starter)
        config: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        config["process"].update({"args": list(args), "terminal": False, **process})
        self.write(config)
        return config

    def write(self, config: dict[str, Any]) -> None:
        (self.bundle / "config.json").write_text(json.dumps(config))

    def delegate(self) -> None:
        """Give him a cgroup of every hierarchy, as a login manager does; his calls then come from one within."""
        for point in hierarchies().mount_points():
            for directory in (point + self.cgroup, f"{point}{self.cgroup}/shell"):
                os.makedirs(directory, exist_ok=True)
                self._delegated.append(directory)
                for path in (directory, *(f"{directory}/{name}" for name in ("cgroup.procs", "cgroup.subtree_control", "tasks"))):
                    if os.path.exists(path):
                        os.chown(path, self.uid, self.uid)
            if "cpuset" in hierarchies().v1 and point == hierarchies().v1["cpuset"]:
                for directory in (point + self.cgroup, f"{point}{self.cgroup}/shell"):
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        Path(directory, name).write_text(Path(point, name).read_text())

    def __call__(self, *args: str, check: int | None = 0, env: dict[str, str] | None = None, **options: Any) -> str:
        """What the command says, errors included."""
        words = [INTERPRETER, "-I", "-S", f"{self.home}/program/agent/runtime/cli/__main__.py", *args]
        done = self.shell(shlex.join(words), env, **options)
        assert check is None or done.returncode == check, done.stdout
        return done.stdout

    def shell(self, script: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        binds = [f"mount --bind {self.home}/{name} /etc/{name}" for name in ("passwd", "group", "subuid", "subgid")]
        binds.append(f"mkdir -p {self.home}/program/agent && mount --bind {REPOSITORY}/agent {self.home}/program/agent")
        if self._delegated:
            shells = [path for path in self._delegated if path.endswith("/shell")]
            binds += [f"echo 0 > {path}/cgroup.procs" for path in shells]
        become = f"exec setpriv --reuid {self.uid} --regid {self.uid} --init-groups --inh-caps=-all sh -c {shlex.quote(script)}"
        # files that do not exist on this machine cannot be covered
        text = "\n".join(("set -e", "for f in subuid subgid; do [ -e /etc/$f ] || exit 77; done", *binds, become))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            **(env or {}),
        }
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", text],
            stdin=subprocess.DEVNULL, text=True, cwd=self.bundle, env=environment, timeout=patience(60), check=False, **options,
        )  # fmt: skip
        if done.returncode == 77:
            pytest.skip("/etc/subuid and /etc/subgid are missing: install the package uidmap")
        return done

    def pids(self) -> list[int]:
        """Processes of his, and of the ids that are lent to him."""
        found = []
        for name in os.listdir("/proc"):
            try:
                uid = os.stat(f"/proc/{name}").st_uid if name.isdigit() else 0
            except FileNotFoundError:
                continue
            if uid == self.uid or RANGE[0] <= uid < sum(RANGE):
                found.append(int(name))
        return found

    def close(self) -> None:
        for directory in sorted(self._delegated, reverse=True):
            os.rmdir(directory)
        shutil.rmtree(self.home)


def reachable() -> bool:
    """Whether other users can run our interpreter."""
    done = subprocess.run(
        ["setpriv", "--reuid", str(free_uid()), "--clear-groups", INTERPRETER, "-I", "-S", "-c", ""],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0
