"""The shim: a process of its own that is one container's parent and outlives the supervisor. What runs in it stands here.

It holds the container's pipes, so that nothing written is lost while no supervisor reads; it never reaps, so that the kernel
keeps the exit status until somebody has read it; and it kills an exclusive container at the lease's end. It writes no log and
answers nobody: what it holds is taken from it by its descriptors' numbers (pidfd_getfd(2)), and it ends by being killed.

    supervisor ── fork ──> stem ── clone, CLONE_PARENT ──> shim (a child of the supervisor)
    shim ── clone ──> creator ── clone, CLONE_PARENT ──> the container's process (a child of the shim)

Memory decides this shape. A fork shares pages until one side writes, and Python writes wherever it looks at an object. A shim
forked from the supervisor would keep, alone, each page that the supervisor has written since; so shims are cloned from a stem,
which does nothing else, and the creation of the container, which touches everything, happens in a creator that ends. What a shim
itself does is a few calls of built-in functions: each module that it looks into would be some 50 kB, 200 times.
"""

from __future__ import annotations

import os
import select

from agent.protocol.errors import Internal, WharfError
from agent.runtime.channel import Channel
from agent.supervisor import jsontext
from agent.supervisor.durable import read_all
from agent.supervisor.leases import LeaseFile, now
from agent.supervisor.loop import report
from agent.supervisor.streams import Stdio
from agent.sys import process, timerfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from agent.supervisor.launch import Runtime
else:
    import _signal as signal

KEPT = 5  # number of the first descriptor that a shim keeps for the supervisor; the others follow
NAME = b"wharf-shim"  # as ps -o comm shows them all; the stem has it too, for its children inherit it
PLAIN, FULL = b"K", b"L"  # the supervisor's last word to a shim
_CONTROL, _SHIM_CONTROL = 3, KEPT - 1
SIGKILL = 9


def stem(control: int, runtime: Runtime, leases: LeaseFile) -> None:
    """Clone shims on demand, until the supervisor is gone. Never returns.

    N with a shim's end of its control and what it keeps -> P, the shim's pid, with its pidfd.
    """
    process.reset_signals()
    if control != _CONTROL:  # dup3(2) refuses to do nothing
        os.dup2(control, _CONTROL, False)
    process.close_all_but([_CONTROL])
    process.set_name(NAME)
    channel = Channel.of(_CONTROL)
    while True:
        kind, _payload, fds = channel.receive()
        if not kind:
            os._exit(0)
        if fds[0] != _SHIM_CONTROL or fds[-1] != _SHIM_CONTROL + len(fds) - 1:
            raise Internal(f"descriptors {fds} in the stem: nobody would know what a shim keeps")
        pid, pidfd = process.clone3(process.CLONE_PARENT)
        if not pid:
            _shim(runtime, leases)
        for fd in fds:
            os.close(fd)
        channel.send(b"P", b"%d" % pid, [pidfd])
        os.close(pidfd)


def _shim(runtime: Runtime, leases: LeaseFile) -> None:
    """Never returns. A creator first; then PLAIN or FULL: the supervisor has it on record. End of file before: all is void."""
    try:
        os.setpgid(0, 0)  # with the creator and its hooks, so that a creation can be ended whole (Shim.end)
        creator, pidfd = process.clone3(0)
        if not creator:
            _create(Channel.of(_SHIM_CONTROL), runtime)
        os.close(pidfd)
        os.close(_CONTROL)
        os.waitid(os.P_PID, creator, os.WEXITED)
        word = os.read(_SHIM_CONTROL, 1)
        if word == FULL:
            _prepare(Channel.of(_SHIM_CONTROL), runtime, leases)
        elif word == PLAIN:
            os.close(_SHIM_CONTROL)
        while word:
            signal.pause()
    except Exception as error:  # noqa: BLE001  # the process's last word: without it nobody would know why the shim is gone
        report(error)
    finally:
        os._exit(0)


def _prepare(control: Channel, runtime: Runtime, leases: LeaseFile) -> None:
    """What few shims need: a console to hold, a lease to enforce, a stage of the creation to reap. Returns when that is done."""
    _kind, payload, fds = control.receive()
    control.close()
    if fds:
        os.dup2(fds[0], KEPT, False)
        os.close(fds[0])
    pid, lease, id_, path = payload.decode().split(" ", 3)
    _reap_stage(int(pid))
    if float(lease):
        _await_end(float(lease), leases)
        _end(int(pid), runtime, id_, path)


def _reap_stage(pid: int) -> None:
    """A process that joined namespaces for the container was our child as well; the container's own is never reaped here."""
    while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and found.si_pid != pid:
        os.waitid(os.P_PID, found.si_pid, os.WEXITED)


def _await_end(lease: float, leases: LeaseFile) -> None:
    """Return when the lease is over: supervisor and agent may both be dead."""
    timer = timerfd.create()
    epoll = select.epoll()
    epoll.register(timer, select.EPOLLIN)
    while (deadline := leases.deadline(lease)) > now():
        timerfd.arm(timer, deadline)
        epoll.poll()
    epoll.close()
    os.close(timer)


def _end(pid: int, runtime: Runtime, id_: str, path: str) -> None:
    """No grace. The pid cannot be another's: nobody but us reaps it."""
    os.kill(pid, SIGKILL)
    try:
        runtime.cgroup(id_, path).kill()
    except OSError as error:
        report(error)


def _create(control: Channel, runtime: Runtime) -> None:
    """The creator: make the container, tell of it (R pid and start time, with Init.let_go) or of the refusal (E), and end."""
    try:
        _kind, _payload, fds = control.receive()
        if not fds:
            os._exit(0)  # the supervisor died
        wanted = jsontext.loads(read_all(fds[0]))
        stdio = Stdio(*fds[1:]) if len(fds) > 1 else None
        init = runtime.create_sibling(wanted["id"], wanted["config"], wanted["rootfs"], stdio)
        control.send(b"R", b"%d %d" % (init.pid, init.start_time), init.let_go())
    except WharfError as error:
        _refuse(control, error.as_dict())
    except Exception as error:  # noqa: BLE001  # whatever it is, the supervisor waits for an answer
        report(error)
        _refuse(control, Internal(f"{type(error).__name__} while a container was made: {error}").as_dict())
    finally:
        os._exit(0)


def _refuse(control: Channel, error: dict[str, Any]) -> None:
    control.send(b"E", jsontext.dumps(error))
