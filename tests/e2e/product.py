"""The whole product in private namespaces of the test process: web process, worker, Valkey, one agent with its supervisor; and `wharf`.

Started once a module. Everything is gone afterwards, containers included.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.integration.controlplane.stores import valkey, wait_for
from tests.nodes import cgroup_directories, isolate, remove_cgroups

ROOT = Path(__file__).resolve().parents[2]
APPLETS = (
    "sh",
    "httpd",
    "sleep",
    "echo",
    "cat",
    "stty",
    "ls",
    "env",
    "id",
    "pwd",
    "true",
    "false",
    "head",
    "wc",
    "hostname",
    "printf",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def busybox_rootfs(files: dict[str, bytes] | None = None) -> bytes:
    """The tar of a small root file system made of Debian's busybox-static."""
    binary = shutil.which("busybox")
    assert binary is not None, "apt-get install busybox-static"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(os.path.realpath(binary), "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, data in {"etc/passwd": b"root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n", **(files or {})}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755 if data.startswith(b"#!") else 0o644
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


class Product:
    """A running control plane with one node."""

    def __init__(self, home: Path, redis: str) -> None:
        self.home = home
        self.cgroup = f"wharf-test-{home.name[11:]}"
        self.port = free_port()
        self.server = f"https://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "DJANGO_"))},
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "WHARF_HOME": str(home / "home"),
            "WHARF_REDIS_URL": redis,
            "WHARF_ADDRESS": "127.0.0.1",
            "WHARF_PORT": str(self.port),
            "WHARF_NODE_PORT": str(free_port()),
            "WHARF_CONFIG": str(home / "context.json"),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.password = ""

    def spawn(self, name: str, *arguments: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            command = [sys.executable, *arguments]
            self.processes[name] = subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=log, stderr=log)

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")[-4000:]

    def start(self) -> None:
        first = subprocess.run(
            [sys.executable, "manage.py", "first_start", "--json"],
            env=self.environment,
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        self.password = json.loads(first.stdout)["password"]
        self.spawn("web", "-m", "controlplane.server")
        celery = ("-A", "controlplane.celery", "worker", "--pool", "threads", "-c", "4")
        self.spawn("worker", "-m", "celery", *celery, "--without-gossip", "--without-mingle")
        wait_for(self._healthy, "the web process answers", 90)
        self.wharf("login", self.server, "-u", "admin", "--password-stdin", "--yes", stdin=self.password.encode())
        join = json.loads(self.wharf("node", "token", "--json").stdout)
        agent = ("-m", "agent", "--home", str(self.home / "agent"))
        joined = subprocess.run(
            [sys.executable, *agent, "join", "--token", join["token"], f"127.0.0.1:{self.port}"],
            env=self.environment, cwd=ROOT, capture_output=True, check=False,
        )  # fmt: skip
        assert joined.returncode == 0, joined.stderr
        self.spawn("agent", *agent, "run", "--run", str(self.home / "run"), "--cgroup-parent", f"/{self.cgroup}")
        wait_for(lambda: [row["state"] for row in self.json("node", "ls")] == ["ready"], "the node is ready", 90)

    def _healthy(self) -> bool:
        assert self.processes["web"].poll() is None, self.log("web")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.server}/healthz", verify=False, timeout=5, trust_env=False).status_code == 200
        return False

    def run(self, *arguments: str, stdin: bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
        """`wharf …` with a pipe on each side."""
        command = [sys.executable, "-m", "controlplane.cli.main", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=ROOT, input=stdin, capture_output=True, check=False, timeout=timeout
        )

    def wharf(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """`run` that has to succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.wharf(*arguments, "--json").stdout)

    def stop(self) -> None:
        for name in ("agent", "worker", "web"):
            process = self.processes.get(name)
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for directory in cgroup_directories(self.cgroup):
            for procs in directory.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    for pid in procs.read_text().split():
                        os.kill(int(pid), 9)
        left = remove_cgroups(self.cgroup)
        assert not left, f"processes are left in {left}"


@contextlib.contextmanager
def product() -> Iterator[Product]:
    """Started; at the end nothing of it is left but the namespaces, which end with the test process."""
    isolate()
    home = Path(tempfile.mkdtemp(prefix="wharf-node-", dir="/tmp"))
    with valkey() as hints:
        made = Product(home, hints.url)
        try:
            made.start()
            yield made
        finally:
            made.stop()
            _unmount(home)
            shutil.rmtree(home, ignore_errors=True)


def _unmount(home: Path) -> None:
    from agent.sys import mountapi

    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line.split()[4]]
    for path in sorted(mounts, key=len, reverse=True):
        with contextlib.suppress(OSError):
            mountapi.umount(path)
