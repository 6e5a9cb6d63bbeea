"""A timer on the clock that also counts while the machine sleeps (timerfd_create(2), clock_gettime(2) CLOCK_BOOTTIME)."""

from __future__ import annotations

import ctypes
import os

from agent.sys import libc

CLOCK_BOOTTIME = 7
_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = [("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long)]


_create = libc.function("timerfd_create", libc.INT, libc.INT)
_settime = libc.function("timerfd_settime", libc.INT, libc.INT, libc.PTR, libc.PTR)


def create() -> int:
    """A descriptor that becomes readable when its moment has come; close-on-exec, non-blocking."""
    return libc.check(_create(CLOCK_BOOTTIME, os.O_CLOEXEC | os.O_NONBLOCK), "timerfd_create")


def arm(fd: int, at: int) -> None:
    """Set the moment, CLOCK_BOOTTIME nanoseconds; one that has passed is due at once. 0: never."""
    value = _Timespec(0, 0, *divmod(at, 1_000_000_000))
    libc.check(_settime(fd, _ABSTIME, ctypes.addressof(value), None), "timerfd_settime")
