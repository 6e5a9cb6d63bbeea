"""CVE-2016-9962: a process of the container reads the descriptors of a runtime process that joins it, or traces it.

Also the first half of CVE-2019-5736: what it opens as /proc/<pid>/exe is the runtime's program.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from agent.runtime import launch
from agent.sys import process
from tests.conformance.runtime.conftest import Runner
from tests.conformance.runtime.cve import attacker

ROUNDS = int(os.environ.get("WHARF_TEST_EXECS", "60"))  # 1000 take half a minute on two busy processors

LOOK = """
import os, signal
print("up", flush=True)
while not os.path.exists("/dev/shm/held"):
    pass
pids = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
found = []
for what in ("exe", "fd/0", "cwd"):
    try:
        found.append(os.readlink(f"/proc/{pids[0]}/{what}"))
    except OSError:
        pass
try:
    os.close(os.open(f"/proc/{pids[0]}/exe", os.O_RDONLY))
    found.append("opened")
except OSError:
    pass
os.close(os.open("/dev/shm/looked", os.O_CREAT, 0o644))
print("found", found, flush=True)
signal.pause()  # the end of pid 1 would be the end of the exec
"""


@pytest.mark.parametrize("dumpable", [False, True])
@pytest.mark.parametrize("locked", [False, True])
def test_an_exec_is_closed_to_the_container(
    runner: Runner, rootfs: Path, monkeypatch: pytest.MonkeyPatch, dumpable: bool, locked: bool
) -> None:
    """The moment before execve, with the container's own rights, is the one to attack: it is held until the spy has looked.

    Either guard is enough: that the process is not dumpable, and that Landlock fences init.
    """
    running = attacker.start(runner, rootfs, LOOK, None if locked else attacker.no_landlock)
    assert running.read_line() == "up"
    search, prctl = launch.search, process.prctl

    def held(name: bytes, env: list[bytes]) -> list[bytes]:
        os.close(os.open("/dev/shm/held", os.O_CREAT, 0o644))  # the container's
        deadline = time.monotonic() + 20
        while not os.path.exists("/dev/shm/looked") and time.monotonic() < deadline:
            os.sched_yield()
        return search(name, env)

    def naive(option: int, *values: int) -> int:
        return 0 if option == process.PR_SET_DUMPABLE else prctl(option, *values)

    monkeypatch.setattr(launch, "search", held)
    if dumpable:
        monkeypatch.setattr(process, "prctl", naive)
    running.exec("/bin/true")
    found = running.read_line()
    assert (found == "found []") is not (dumpable and not locked), found


HUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206
seen = looked = 0
print("up", flush=True)
while not os.path.exists("/dev/shm/end"):
    for name in os.listdir("/proc"):
        if not name.isdigit() or name == "1":
            continue
        looked += 1
        try:
            program = os.readlink(f"/proc/{name}/exe")
            if "busybox" not in program and "deleted" not in program:
                print("leak", program, os.listdir(f"/proc/{name}/fd"), flush=True)
            for fd in os.listdir(f"/proc/{name}/fd"):
                target = os.readlink(f"/proc/{name}/fd/{fd}")
                if int(fd) > 2 and not target.startswith("/proc"):
                    print("leak fd", target, flush=True)
        except OSError:
            pass
        if libc.ptrace(PTRACE_SEIZE, int(name), 0, 0) == 0:
            print("leak traced", flush=True)
            sys.exit()
print("looked" if looked else "saw nobody", flush=True)
"""


@pytest.mark.parametrize("locked", [False, True])
def test_many_execs_leak_nothing(runner: Runner, rootfs: Path, locked: bool) -> None:
    """Pid 1 opens and traces whatever appears, with nothing held: half of the rounds without Landlock."""

    def change(config: dict[str, Any]) -> None:
        if not locked:
            attacker.no_landlock(config)
        # PTRACE_SEIZE of an ordinary process of its own is what a container may do: without Landlock only the time before
        # execve counts, so the program that runs in the end ends at once and is not dumpable to others
        config["linux"]["seccomp"]["syscalls"][0]["names"] = [
            name for name in config["linux"]["seccomp"]["syscalls"][0]["names"] if locked or name != "ptrace"
        ]

    running = attacker.start(runner, rootfs, HUNT, change)
    assert running.read_line() == "up"
    for _ in range(ROUNDS // 2):
        assert running.exec("/bin/true").status == 0
    running.exec("/bin/touch", "/dev/shm/end")
    assert running.wait().output == "looked\n"
