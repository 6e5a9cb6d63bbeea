"""The shim: a process of its own that is one container's parent and outlives the supervisor. What runs in it stands here.

It holds the container's pipes, so that nothing written is lost while no supervisor reads; it never reaps, so that the kernel keeps
the exit status until somebody has read it; and it kills an exclusive container at the lease's end. It writes no log and answers
nobody: whatever it holds is taken from it by its descriptors' numbers (pidfd_getfd(2)), and it ends by being killed.

    supervisor ──fork──► stem ──clone(PARENT)──► shim ──clone──► creator ──clone(PARENT)──► the container's process
                                                  ▲ the shim's child                         ▲ the shim's child

Memory decides this shape. A fork shares pages until one side writes, and Python writes wherever it looks at an object: a shim forked
from the supervisor would keep, alone, each page that the supervisor has written since the shim before. So shims are cloned from a
stem, which does nothing else; and the creation of the container, which touches everything, happens in a creator that ends.
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
    from typing import Any

    from agent.supervisor.launch import Runtime

KEPT = 64  # number of the first descriptor that a shim keeps for the supervisor; the others follow
STEM_NAME, NAME = b"wharf-stem", b"wharf-shim"  # as ps -o comm shows them
SIGKILL = 9


def stem(control: Channel, runtime: Runtime, leases: LeaseFile) -> None:
    """Clone shims on demand, until the supervisor is gone. Never returns.

    N with a shim's end of its control → P, the shim's pid, with its pidfd.
    """
    process.reset_signals()
    process.close_all_but([control.fileno()])
    process.set_name(STEM_NAME)
    while True:
        kind, _payload, fds = control.receive()
        if not kind:
            os._exit(0)
        pid, pidfd = process.clone3(process.CLONE_PARENT)
        if not pid:
            _guarded(Channel.of(fds[0]), runtime, leases)
        os.close(fds[0])
        control.send(b"P", b"%d" % pid, [pidfd])
        os.close(pidfd)


def _guarded(control: Channel, runtime: Runtime, leases: LeaseFile) -> None:
    """The shim. Never returns."""
    try:
        process.close_all_but([control.fileno()])
        process.set_name(NAME)
        _shim(control, runtime, leases)
    except Exception as error:  # noqa: BLE001  # the process's last word: without it nobody would know why the shim is gone
        report(error)
    finally:
        os._exit(1)


def _shim(control: Channel, runtime: Runtime, leases: LeaseFile) -> None:
    """C (for the creator: what to make), then K: the supervisor has it on record. End of file before K: all of it is void."""
    creator, pidfd = process.clone3(0)
    if not creator:
        _create(control, runtime)
    os.close(pidfd)
    os.waitid(os.P_PID, creator, os.WEXITED)
    kind, payload, fds = control.receive()
    if kind != b"K":
        os._exit(0)
    for number, fd in enumerate(fds, KEPT):
        os.dup2(fd, number, False)
        os.close(fd)
    control.close()
    pid, lease, id_, path = payload.decode().split(" ", 3)
    _reap_others(int(pid))
    if float(lease):
        _enforce(int(pid), float(lease), leases)
        _end(int(pid), runtime, id_, path)
    while True:
        select.epoll().poll()


def _reap_others(pid: int) -> None:
    """A stage of the creation that joined namespaces is our child as well; the container's own process is never reaped here."""
    while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and found.si_pid != pid:
        os.waitid(os.P_PID, found.si_pid, os.WEXITED)


def _enforce(pid: int, lease: float, leases: LeaseFile) -> None:
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
        init = runtime.create(wanted["id"], wanted["config"], wanted["rootfs"], stdio, sibling=True)
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
