"""`wharf-runtime` as a program: with a state directory, a bundle and a cgroup of its own, all removed at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.runtime import cgroup as cgroups
from agent.runtime.defaults import default_config
from tests.pace import patience

REPOSITORY = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-I", "-S", str(REPOSITORY / "agent/runtime/cli/__main__.py")]


class Command:
    """Called with words; `supervisor` is the run directory of the one that may be asked, "" for none."""

    def __init__(self, directory: Path, rootfs: Path, supervisor: str = "") -> None:
        self.state, self.bundle = directory / "state", directory / "bundle"
        self.bundle.mkdir()
        (self.bundle / "rootfs").symlink_to(rootfs)
        self.supervisor = supervisor
        self.ids: list[str] = []
        self.parent = f"/wharf-runtime-cli-{os.getpid()}"

    def configure(self, *args: str, **options: Any) -> dict[str, Any]:
        """A config of our defaults, written and returned; its cgroup is `parent`/box."""
        config = default_config(list(args), hostname="cli", **options)
        config["linux"]["cgroupsPath"] = self.parent + "/box"
        self.write(config)
        return config

    def write(self, config: dict[str, Any]) -> None:
        (self.bundle / "config.json").write_text(json.dumps(config))

    def words(self, *args: str) -> list[str]:
        return [*PROGRAM, "--root", str(self.state), *args]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "WHARF_SUPERVISOR": self.supervisor}

    def __call__(self, *args: str, check: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Its end; output and errors are in `stdout`. `check` is the status that is expected, `behind` a program to start it."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **options}
        environment = {**self.environment, **options.pop("env", {})}
        words = [*options.pop("behind", ()), *self.words(*args)]
        done = subprocess.run(words, text=True, env=environment, timeout=patience(60), check=False, **options)
        assert check is None or done.returncode == check, done.stdout
        return done

    def create(self, id: str, *options: str, **more: Any) -> None:
        """With a cgroup named after it."""
        config = json.loads((self.bundle / "config.json").read_text())
        config["linux"]["cgroupsPath"] = f"{self.parent}/{id}"
        self.write(config)
        self.ids.append(id)
        # its streams must not be the pipe that the test reads to the end
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self("create", "-b", str(self.bundle), *options, id, **{**quiet, **more})

    def start(self, id: str, *args: str, **options: Any) -> None:
        """Created and started."""
        self.configure(*args, **options)
        self.create(id)
        self("start", id)

    def run(self, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """`run` of the bundle as it is configured, under the id `box`."""
        return self("run", "-b", str(self.bundle), *options, "box", **more)

    def status(self, id: str) -> str:
        return str(json.loads(self("state", id).stdout)["status"])

    def pid(self, id: str) -> int:
        return int(json.loads(self("state", id).stdout)["pid"])

    def close(self) -> None:
        for id in [*self.ids, "box"]:
            self("delete", "-f", id)
        parent = cgroups.Cgroup(self.parent)
        assert not parent.exists() or (parent.pids() == [] and parent.remove(seconds=10))
