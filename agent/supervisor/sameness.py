"""Whether a process on record is still that very process."""

from __future__ import annotations

import os

from agent.supervisor.processes import start_time
from agent.supervisor.record import boot_id


def open_same(pid: int, started: int, boot: str) -> int:
    """A pidfd of that very process, or -1: pids come round again, so start time and boot are compared after the opening."""
    if pid <= 0 or boot != boot_id():
        return -1
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return -1
    if start_time(pid) != started:
        os.close(pidfd)
        return -1
    return pidfd
