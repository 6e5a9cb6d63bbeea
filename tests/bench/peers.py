"""Debian's runtimes and ours from the command line, each with a bundle of its own made from one configuration."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


class Lane:
    """A helper process that does one thing a request; see lane.py and resident.py."""

    def __init__(self, *words: str, supervisor: str = "") -> None:
        """`supervisor`: the run directory of the one that our command line may ask; "" for none."""
        command = [sys.executable, "-I", "-S", *words]
        environment = {**os.environ, "WHARF_SUPERVISOR": supervisor}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )
        assert self._read() == "ready\n", f"{words} did not come up"

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ask(self, **request: Any) -> dict[str, float]:
        """Raises AssertionError when the program failed: a benchmark of failures would look fast."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        answer: dict[str, float] = json.loads(self._read())
        assert answer["status"] == 0, f"{request} ended with {answer['status']}"
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@dataclass
class Runtime:
    """A runtime's command line, its state directory and its bundle."""

    name: str
    program: list[str]
    directory: Path
    state: Path
    lane: Lane
    count: int = 0

    def words(self, *rest: str) -> list[str]:
        return [*self.program, "--root", str(self.state), *rest]

    def run(self) -> dict[str, float]:
        """`run` of the bundle: it returns when the container has ended and is deleted."""
        self.count += 1
        return self.lane.ask(argv=self.words("run", "--bundle", str(self.directory), f"{self.directory.name}-{self.count}"))

    @contextmanager
    def running(self, bundle: Path) -> Iterator[str]:
        """The id of a container that sleeps."""
        id_ = f"{self.directory.name}-sleeper"
        self.lane.ask(argv=self.words("run", "--detach", "--bundle", str(bundle), id_))
        try:
            yield id_
        finally:
            self.lane.ask(argv=self.words("delete", "--force", id_))

    def exec(self, id_: str, *args: str) -> dict[str, float]:
        return self.lane.ask(argv=self.words("exec", id_, *args))


def make_bundle(directory: Path, config: dict[str, Any], rootfs: Path, cgroup: str) -> Path:
    """A bundle of `config` over `rootfs` with the cgroup `/<cgroup>/<directory's name>`."""
    directory.mkdir()
    made = copy.deepcopy(config)
    made["ociVersion"] = "1.0.2"  # crun 1.8 knows no later one
    made["root"]["path"] = str(rootfs)
    made["linux"]["cgroupsPath"] = f"/{cgroup}/{directory.name}"
    (directory / "config.json").write_text(json.dumps(made))
    return directory


def wharf_runtime(directory: Path) -> list[str]:
    """The installed command, in a directory that looks like an environment within the tree that is measured."""
    place = directory / "environment"
    (place / "bin").mkdir(parents=True)
    shutil.copy2(ROOT / "agent/runtime/cli/wharf-runtime", place / "bin/wharf-runtime")
    (place / "bin/python3").symlink_to(sys.executable)
    (directory / "agent").symlink_to(ROOT / "agent")
    return [str(place / "bin/wharf-runtime")]


def installed(name: str) -> list[str]:
    """The command line of a peer. Raises SystemExit with what to install."""
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not installed: deploy/prepare bench")
    return [path]


class Peers:
    """The command lines that are compared, each with its own bundle. `suffix` tells parallel sets apart."""

    def __init__(self, directory: Path, config: dict[str, Any], rootfs: Path, cgroup: str, supervisor: str) -> None:
        self._stack = ExitStack()
        # in memory, as below /run on an ordinary machine
        self._states = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wharf-bench-", dir="/dev/shm")))
        self._directory, self._rootfs, self._cgroup = directory, rootfs, cgroup
        plain = copy.deepcopy(config)
        del plain["linux"]["seccomp"]
        self.crun = self._runtime("crun", installed("crun"), config, "--hide-v2")
        self.crun_plain = self._runtime("crun without seccomp", self.crun.program, plain, "--hide-v2")
        self.runc = self._runtime("runc", installed("runc"), config)
        self.cold = self._runtime("wharf-runtime, cold", wharf_runtime(directory), config)
        self.served = self._runtime("wharf-runtime, by a supervisor", self.cold.program, config, supervisor=supervisor)

    def _runtime(self, name: str, program: list[str], config: dict[str, Any], *options: str, supervisor: str = "") -> Runtime:
        bundle = make_bundle(self._directory / name.replace(" ", "-").replace(",", ""), config, self._rootfs, self._cgroup)
        lane = Lane(str(HERE / "lane.py"), *options, supervisor=supervisor)
        self._stack.callback(lane.close)
        return Runtime(name, program, bundle, self._states / bundle.name, lane)

    def resident(self, name: str, config: dict[str, Any]) -> Lane:
        """Our runtime in a process of its own."""
        bundle = make_bundle(self._directory / name, config, self._rootfs, self._cgroup)
        lane = Lane(str(HERE / "resident.py"), str(ROOT), str(bundle))
        self._stack.callback(lane.close)
        return lane

    def all(self) -> list[Runtime]:
        return [self.cold, self.served, self.crun, self.runc, self.crun_plain]

    def close(self) -> None:
        self._stack.close()
