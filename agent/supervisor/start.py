"""Start a supervisor when none answers. Used by the client's process only; it blocks, so call it in a thread."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time

from agent.protocol.errors import Unavailable
from agent.supervisor.main import EX_TEMPFAIL, SOCKET

STARTED = 15.0  # s until a new supervisor has to answer
_LOCK = "starting.lock"


class SupervisorAway(Unavailable):
    """No supervisor answers on the socket. The detail says why it could not be started, if that was tried."""

    code = "supervisor_away"


def program() -> str:
    """The file that python runs."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")


def ensure(rundir: str, statedir: str, cgroup_parent: str, script: str | None = None) -> None:
    """Return once a supervisor answers in `rundir`, started if need be; two starters take turns. Raises SupervisorAway."""
    os.makedirs(rundir, 0o700, exist_ok=True)
    fd = os.open(os.path.join(rundir, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if answers(rundir):
            return
        _start([script or program(), "--root", rundir, "--state", statedir, "--cgroup-parent", cgroup_parent, "--daemon"])
        _await(rundir)
    finally:
        os.close(fd)


def answers(rundir: str) -> bool:
    """Whether somebody accepts connections on the socket: a stale one refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(os.path.join(rundir, SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except BlockingIOError:
            return True  # its backlog is full: busy, but alive
    return True


def _start(words: list[str]) -> None:
    # own session: our process group's end is not its end; it leaves our cgroups by itself
    done = subprocess.run(  # our own program
        [sys.executable, "-I", "-S", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        check=False,
        timeout=STARTED,
    )
    if done.returncode not in (0, EX_TEMPFAIL):  # held: one that is just starting, or upgrading
        raise SupervisorAway(
            f"the supervisor ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()[-2000:]}"
        )


def _await(rundir: str) -> None:
    deadline = time.monotonic() + STARTED
    while not answers(rundir):
        if time.monotonic() > deadline:
            raise SupervisorAway(f"no supervisor answers in {rundir} after {STARTED:.0f} s: see {rundir}/supervisor.log")
        time.sleep(0.01)
