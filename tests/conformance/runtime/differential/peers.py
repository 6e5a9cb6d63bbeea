"""One container under one of the runtimes: the bundle, the program, and what its processes reported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.sys import nr
from tests.conformance.runtime.command import PROGRAM as OURS
from tests.conformance.runtime.cve import attacker
from tests.conformance.runtime.differential.calls import Call, table

HERE = Path(__file__).parent
# device nodes that stand in the image; which of them can be opened is the device controller's to say
NODES = {"full": (1, 7), "kmsg": (1, 11), "mem": (1, 1), "tty": (5, 0), "tun": (10, 200), "fuse": (10, 229), "vcs": (7, 0)}
INTERPRETER = (attacker.PROGRAM, "-I", "-S")
# Debian's crun refuses the hybrid layout unless the second hierarchy's controllers are hidden
HIDE = 'mount --make-rprivate / && mount --bind /dev/null "$1" && shift && exec "$@"'
CONTROLLERS = "/sys/fs/cgroup/unified/cgroup.controllers"


@dataclass(frozen=True)
class Peer:
    name: str
    words: tuple[str, ...]

    def version(self) -> str:
        """Such as 1.1.5; a distribution's addition is left out."""
        shown = subprocess.run([*self.words, "--version"], check=True, capture_output=True, text=True, timeout=30).stdout
        return shown.split()[2].partition("+")[0]


def find(name: str) -> Peer | None:
    """runc or crun; None where it is not installed."""
    path = shutil.which(name)
    if path is None:
        return None
    hide = name == "crun" and os.path.exists(CONTROLLERS)
    return Peer(name, ("unshare", "-m", "sh", "-c", HIDE, "sh", CONTROLLERS, path) if hide else (path,))


def ours() -> Peer:
    return Peer("ours", tuple(OURS))


class Bundle:
    """With a root filesystem of the runtime's own, so that what it leaves there is seen."""

    def __init__(self, peer: Peer, directory: Path, busybox_root: Path, cgroup: str, calls: list[Call] | None = None) -> None:
        self.peer, self.directory, self.cgroup = peer, directory, f"{cgroup}/{peer.name}"
        self.rootfs = directory / "rootfs"
        shutil.copytree(busybox_root, self.rootfs, symlinks=True, ignore=shutil.ignore_patterns("dev", "proc", "sys"))
        (self.rootfs / "probe").mkdir()
        shutil.copy(HERE / "probe.py", self.rootfs / "probe/probe.py")
        (self.rootfs / "probe/calls.json").write_text(json.dumps(table(nr.MACHINE) if calls is None else calls))
        (self.rootfs / "nodes").mkdir()
        for name, (major, minor) in NODES.items():
            os.mknod(self.rootfs / "nodes" / name, 0o020666, os.makedev(major, minor))
        self.before = self._paths()

    def _call(self, *words: str, **options: Any) -> str:
        done = subprocess.run(
            [*self.peer.words, "--root", str(self.directory / "state"), *words],
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            text=True, timeout=60, check=False, cwd=self.directory, env={**os.environ, "WHARF_SUPERVISOR": ""},
        )  # fmt: skip
        assert done.returncode == 0, f"{self.peer.name} {words[0]}: {done.stderr or done.stdout}"
        return str(done.stdout)

    def starter(self) -> dict[str, Any]:
        """What `spec` of the runtime writes, without its terminal."""
        self._call("spec")
        place = self.directory / "config.json"
        config: dict[str, Any] = json.loads(place.read_text())
        place.unlink()
        config["process"]["terminal"] = False
        config["hostname"] = "probe"
        return config

    def _write(self, config: dict[str, Any], *args: str) -> dict[str, Any]:
        """Arguments, root, the interpreter's mounts and the cgroup are set; the rest is as given."""
        config = json.loads(json.dumps(config))
        config["process"]["args"] = [*INTERPRETER, *args]
        config["root"]["path"] = str(self.rootfs)
        config["linux"]["cgroupsPath"] = self.cgroup
        attacker.show_python(config)
        (self.directory / "config.json").write_text(json.dumps(config))
        return config

    def report(self, config: dict[str, Any]) -> dict[str, str]:
        """Of a container's first process, and what the runtime made in the image for it."""
        self._write(config, "/probe/probe.py", "/probe/calls.json")
        seen = self._plain(self._call("run", "probe"))
        return seen | {f"left {path}": mode for path, mode in self._paths().items() if path not in self.before}

    def report_of_exec(self, config: dict[str, Any]) -> dict[str, str]:
        """Of a process that joins a container."""
        process = self._write(config, "-c", "import signal; signal.pause()")["process"]
        process["args"] = [*INTERPRETER, "/probe/probe.py", "/probe/calls.json"]
        (self.directory / "process.json").write_text(json.dumps(process))
        # the container keeps the streams: a pipe would never end
        self._call("run", "--detach", "probe", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return self._plain(self._call("exec", "--process", str(self.directory / "process.json"), "probe"))
        finally:
            self._call("delete", "--force", "probe")

    def _plain(self, text: str) -> dict[str, str]:
        """Without what is of this one run."""
        seen: dict[str, str] = json.loads(text)
        own = {str(self.directory): "BUNDLE", self.cgroup: "CGROUP"}
        for key, value in seen.items():
            for long, short in own.items():
                value = value.replace(long, short)
            if key.startswith("namespace ") and ":[" in value:
                value = "the host's" if os.readlink(f"/proc/self/ns/{key.split()[1]}") == value else "its own"
            seen[key] = value
        return seen

    def _paths(self) -> dict[str, str]:
        found = {}
        for place, folders, files in os.walk(self.rootfs):
            for path in (os.path.join(place, name) for name in folders + files):
                found["/" + os.path.relpath(path, self.rootfs)] = oct(os.lstat(path).st_mode)
        return found
