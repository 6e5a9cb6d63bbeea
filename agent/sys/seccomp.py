"""Load a seccomp filter (seccomp(2))."""

from __future__ import annotations

import ctypes

from agent.sys import libc, nr

SET_MODE_FILTER = 1
FLAG_LOG = 2
FLAG_SPEC_ALLOW = 4
FLAG_NEW_LISTENER = 8
FLAG_WAIT_KILLABLE_RECV = 32


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


_seccomp = libc.syscall(nr.SECCOMP, libc.UINT, libc.UINT, libc.PTR)


class Filter:
    """A classic BPF program laid out for the kernel: 8 bytes an instruction."""

    __slots__ = ("_buffer", "_program")

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._program = _FilterProgram(len(program) // 8, ctypes.addressof(self._buffer))

    def load(self, flags: int) -> int:
        """Install for the calling thread, for ever. Needs no_new_privs or CAP_SYS_ADMIN. Returns the listener's fd or 0."""
        return libc.check(_seccomp(SET_MODE_FILTER, flags, ctypes.addressof(self._program)), "seccomp")
