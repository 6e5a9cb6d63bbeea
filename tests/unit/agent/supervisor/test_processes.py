"""Exits of our children, of others' children, and of strays; no root needed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent.supervisor.loop import READ, Loop
from agent.supervisor.processes import Exit, Processes, foreign_status, start_time
from agent.sys.pidfd import exit_status


@pytest.fixture
def loop() -> Iterator[Loop]:
    assert threading.current_thread() is threading.main_thread()
    loop = Loop()
    yield loop
    loop.close()


def child(code: int) -> tuple[int, int]:
    """(pid, pidfd) of a child that exits at once with `code`, or by a signal if negative."""
    pid = os.fork()
    if pid == 0:
        if code < 0:
            os.kill(os.getpid(), -code)
        os._exit(code)
    return pid, os.pidfd_open(pid)


@pytest.mark.parametrize(("code", "expected"), [(0, (0, None)), (7, (7, None)), (-9, (137, 9)), (-15, (143, 15))])
def test_an_exit_is_told_before_it_is_reaped(loop: Loop, code: int, expected: tuple[int, int | None]) -> None:
    processes = Processes(loop)
    pid, pidfd = child(code)
    seen: list[tuple[int | None, int | None, bool, bool]] = []

    def ended(exit_: Exit) -> None:
        seen.append((exit_.code, exit_.signal, exit_.known, start_time(pid) is not None))
        loop.stop()

    process = processes.track(pid, pidfd, start_time(pid) or 0, ended)
    loop.run()
    assert seen == [(*expected, True, True)]  # still a zombie then
    assert start_time(pid) is None  # and reaped now
    assert process.pidfd == -1
    assert not process.send(9)


def test_strays_are_reaped_and_ours_are_told(loop: Loop) -> None:
    processes = Processes(loop)
    stray, stray_fd = child(3)
    ours, ours_fd = child(4)
    seen: list[int | None] = []
    processes.track(ours, ours_fd, start_time(ours) or 0, lambda exit_: seen.append(exit_.code))
    for pidfd in (stray_fd, ours_fd):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    processes.reap()
    loop.later(0, loop.stop)
    loop.run()
    assert seen == [4]
    assert start_time(stray) is None
    os.close(stray_fd)


def test_all_that_ended_is_committed_once_and_told_after_that(loop: Loop) -> None:
    seen: list[str] = []
    processes = Processes(loop, lambda: seen.append("commit"))
    for code in range(3):
        pid, pidfd = child(code)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)

        def ended(exit_: Exit) -> Callable[[], None]:
            seen.append(f"ended {exit_.code}")
            return lambda: seen.append(f"told {exit_.code}")

        processes.track(pid, pidfd, start_time(pid) or 0, ended)

    def found() -> Callable[[], None]:
        seen.append("found")
        return lambda: seen.append("told it")

    processes.conclude(found)
    loop.later(0, loop.stop)
    loop.run()
    middle = seen.index("commit")
    assert sorted(seen[:middle]) == ["ended 0", "ended 1", "ended 2", "found"]
    assert sorted(seen[middle + 1 :]) == ["told 0", "told 1", "told 2", "told it"]


def test_a_fault_of_one_keeps_nobody_elses_end_from_being_told(loop: Loop) -> None:
    processes = Processes(loop)
    seen: list[int | None] = []

    def broken(_exit: Exit) -> None:
        raise RuntimeError("on purpose")

    pids = []
    for number, ended in enumerate((broken, lambda exit_: seen.append(exit_.code), broken)):
        pid, pidfd = child(number)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        processes.track(pid, pidfd, start_time(pid) or 0, ended)
        pids.append(pid)
    loop.later(0, loop.stop)
    loop.run()
    assert seen == [1]
    assert [start_time(pid) for pid in pids] == [None] * 3


def test_what_was_let_go_in_the_same_round_is_not_told(loop: Loop) -> None:
    """A container's deletion lets its probes go: also one that ended in that very moment."""
    processes = Processes(loop)
    seen: list[int | None] = []
    pid, pidfd = child(5)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    process = processes.track(pid, pidfd, start_time(pid) or 0, lambda exit_: seen.append(exit_.code))
    read, write = os.pipe()
    os.write(write, b"x")
    loop.watch(read, READ, lambda _events: (loop.forget(read), processes.release(process), loop.later(0, loop.stop)))  # type: ignore[func-returns-value]  # three calls
    loop.run()
    assert seen == []
    assert start_time(pid) is None  # reaped as a stray
    os.close(read)
    os.close(write)


def test_a_stray_whose_reaping_somebody_awaits_is_told(loop: Loop) -> None:
    processes = Processes(loop)
    pid, pidfd = child(3)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    processes.on_collected[pid] = loop.stop
    processes.reap()
    loop.run()
    assert start_time(pid) is None
    assert processes.on_collected == {}
    os.close(pidfd)


def test_much_to_clean_up_keeps_nobody_waiting(loop: Loop) -> None:
    """Calls at leisure take turns with timers and descriptors."""
    seen: list[str] = []

    def slow() -> None:
        end = time.monotonic() + 0.003  # longer than a round's leisure
        while time.monotonic() < end:
            pass
        seen.append("slow")

    for _ in range(3):
        loop.at_leisure(slow)
    loop.later(0.001, lambda: seen.append("timer"))
    loop.later(0.02, loop.stop)
    loop.run()
    assert seen.index("timer") <= 1
    assert seen.count("slow") == 3


def test_a_fault_in_the_handler_still_reaps(loop: Loop) -> None:
    processes = Processes(loop)
    pid, pidfd = child(1)

    def broken(_exit: Exit) -> None:
        loop.stop()
        raise RuntimeError("on purpose")

    processes.track(pid, pidfd, start_time(pid) or 0, broken)
    loop.run()
    assert start_time(pid) is None


def test_the_end_of_anothers_child_is_known() -> None:
    """A grandchild whose parent has not reaped it is a zombie, whose status /proc tells; after the reaping the pidfd tells it."""
    read, write = os.pipe()
    go_read, go_write = os.pipe()
    parent = os.fork()
    if parent == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(9)
        os.waitid(os.P_PID, grandchild, os.WEXITED | os.WNOWAIT)
        os.write(write, b"%d" % grandchild)
        os.read(go_read, 1)
        os.waitpid(grandchild, 0)
        os.write(write, b"reaped")
        os.read(go_read, 1)
        os._exit(0)
    pid = int(os.read(read, 20))
    pidfd = os.pidfd_open(pid)
    started = start_time(pid) or 0
    assert exit_status(pidfd) is None
    assert foreign_status(pidfd, pid, started) == 9 << 8
    assert foreign_status(pidfd, pid, started + 1) is None  # another process of that number: its end is not ours
    os.write(go_write, b"!")
    assert os.read(read, 20) == b"reaped"
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert exit_status(pidfd) == (9 << 8 if release >= (6, 15) else None)
    os.write(go_write, b"!")
    os.waitpid(parent, 0)
    for fd in (read, write, go_read, go_write, pidfd):
        os.close(fd)


def test_timers_run_in_order_and_cancelled_ones_do_not(loop: Loop) -> None:
    seen: list[str] = []
    loop.later(0.02, lambda: seen.append("second"))
    loop.later(0.01, lambda: seen.append("first"))
    loop.later(0.0, lambda: seen.append("never")).cancel()
    loop.later(0.03, loop.stop)
    loop.run()
    assert seen == ["first", "second"]


def test_signals_are_handled_by_the_loop(loop: Loop) -> None:
    loop.on_signal(signal.SIGUSR1, loop.stop)
    loop.later(0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    loop.run()


def test_one_fault_does_not_stop_the_loop(loop: Loop) -> None:
    read, write = os.pipe()
    os.write(write, b"x")

    def fault(_events: int) -> None:
        os.read(read, 1)
        loop.later(0, loop.stop)
        raise RuntimeError("on purpose")

    loop.watch(read, READ, fault)
    loop.run()
    loop.forget(read)
    loop.forget(read)
    os.close(read)
    os.close(write)
