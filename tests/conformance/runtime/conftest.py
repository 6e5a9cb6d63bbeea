"""Containers on the real kernel: a busybox root filesystem, a runner, and a leak check after every test."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import container
from agent.runtime import plan as plans
from agent.runtime.cgroup import Cgroup, hierarchies
from agent.runtime.container import Init, Stdio
from agent.runtime.defaults import default_config
from agent.runtime.exec import exec_in
from agent.runtime.plan import Plan
from agent.sys.mount import Mount
from tests.conformance.runtime.command import Command
from tests.pace import patience

RELEASE = tuple(int(word) for word in os.uname().release.split("-")[0].split(".")[:2])
BUSYBOX = "/bin/busybox"
PARENT = f"/wharf-runtime-test-{os.getpid()}"
DEADLINE = patience(20.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    why = "needs root" if os.geteuid() else "" if os.path.exists(BUSYBOX) else "needs busybox-static"
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.root)
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The condition's value once it is true; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {DEADLINE} s for {what}"
        time.sleep(0.002)
    return value


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("busybox")
    root.chmod(0o755)  # a plain user has to get in
    (root / "bin").mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    applets = (
        "sh true false cat ls id mount ps sleep stty tty readlink grep hostname stat touch mkdir rm echo head dd env pwd test"
        " kill ip ping seq chmod mknod wc nice cut sort umount find tr chroot unshare date mktemp dmesg ln od printf sysctl"
    )
    for name in applets.split():
        (root / "bin" / name).symlink_to("busybox")
    for name in ("etc", "tmp", "root", "home"):
        (root / name).mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    return root


@pytest.fixture
def rootfs(busybox_root: Path, tmp_path: Path) -> Path:
    """A copy of its own for a test that changes it."""
    target = tmp_path / "rootfs"
    # without what containers of earlier tests mounted on
    shutil.copytree(busybox_root, target, symlinks=True, ignore=shutil.ignore_patterns("dev", "proc", "sys"))
    return target


class Outcome:
    def __init__(self, status: int, output: str, cgroup: Cgroup) -> None:
        self.status = status
        self.output = output
        self.lines = output.splitlines()


class Running:
    """A container that was started, its output on a pipe."""

    def __init__(self, plan: Plan, init: Init, output: int) -> None:
        self.plan, self.init, self.output = plan, init, output
        self.cgroup = Cgroup(plan.cgroup_path)
        self.status: int | None = None

    def wait(self) -> Outcome:
        """Read to the end and reap; a status above 128 is 128 + signal."""
        chunks = []
        while self.output >= 0 and (chunk := _read(self.output)):
            chunks.append(chunk)
        result = os.waitid(os.P_PIDFD, self.init.pidfd, os.WEXITED)
        assert result is not None
        self.status = result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
        return Outcome(self.status, b"".join(chunks).decode(errors="replace"), self.cgroup)

    def read_line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self.output, 1)
            assert piece, f"output ended after {line!r}"
            line += piece
        return line.decode().rstrip()

    def exec(self, *args: str, terminal: bool = False, **changes: Any) -> Outcome:
        process = {**self.plan.config["process"], "args": list(args), "terminal": terminal, **changes}
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            init = exec_in(self.plan, self.init.pid, process, Stdio(null, writer, writer), start_time=self.init.start_time)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
            os.close(null)
        if init.console_fd >= 0:
            os.close(reader)
            reader = init.console_fd
        outcome = Running(self.plan, init, reader).wait()
        os.close(reader)
        os.close(init.pidfd)
        return outcome

    def end(self) -> None:
        if self.status is None:
            self.cgroup.kill()
            self.wait()
        os.close(self.init.pidfd)
        if self.output >= 0:
            os.close(self.output)
        assert self.cgroup.remove(seconds=DEADLINE), f"{self.cgroup.path} stayed busy"


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError as error:
        if error.errno == 5:  # EIO: the terminal's last slave has closed
            return b""
        raise


class Runner:
    """Makes containers; `change` edits the default config."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.running: list[Running] = []
        self.count = 0

    def plan(
        self, *args: str, root: Path | None = None, change: Callable[[dict[str, Any]], None] | None = None, **options: Any
    ) -> Plan:
        config = default_config(list(args), **options)
        if change is not None:
            change(config)
        self.count += 1
        mounts = [Mount("bind", str(root or self.root), "", ())]
        return plans.compile(config, id=f"c{self.count}", rootfs=mounts, cgroup_parent=PARENT)

    def start(self, *args: str, **options: Any) -> Running:
        return self.start_plan(self.plan(*args, **options))

    def start_plan(self, plan: Plan) -> Running:
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            init = container.create(plan, Stdio(null, writer, writer))
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
            os.close(null)
        if init.console_fd >= 0:
            os.close(reader)
            reader = init.console_fd
        running = Running(plan, init, reader)
        self.running.append(running)
        init.start()
        return running

    def run(self, *args: str, **options: Any) -> Outcome:
        """Start and wait."""
        return self.start(*args, **options).wait()

    def sh(self, script: str, **options: Any) -> Outcome:
        return self.run("sh", "-c", script, **options)


@pytest.fixture
def runner(busybox_root: Path) -> Iterator[Runner]:
    base = str(busybox_root.parent)
    before = (_mounts(base), _fds())
    made = Runner(busybox_root)
    try:
        yield made
    finally:
        for running in reversed(made.running):  # the first process of a pid namespace waits for all who joined it
            running.end()
        _remove_parent()
    assert (_mounts(base), _fds()) == before, "mounts or descriptors leaked"
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)


def _mounts(base: str) -> list[str]:
    """Those that a container of ours could have left; other programs, and other test runs, mount, too, while a test runs."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return sorted(point for point in points if point == "/" or point.startswith(base))


def _fds() -> set[str]:
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def _remove_parent() -> None:
    parent = Cgroup(PARENT)
    for directory in [point + PARENT for point in hierarchies().mount_points()]:
        if os.path.isdir(directory):
            left = [entry.name for entry in os.scandir(directory) if entry.is_dir()]
            assert left == [], f"{directory} still holds {left}"
    assert parent.remove(seconds=DEADLINE)


def kill_with(running: Running, number: signal.Signals) -> None:
    signal.pidfd_send_signal(running.init.pidfd, number)


@pytest.fixture
def command(tmp_path: Path, busybox_root: Path) -> Iterator[Command]:
    """The command line by itself: no supervisor is asked."""
    made = Command(tmp_path, busybox_root)
    yield made
    made.close()
