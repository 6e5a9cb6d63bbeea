"""Landlock (landlock(7)): a process gives up file access it does not need; inherited by children, irrevocable."""

from __future__ import annotations

import os
import struct

from agent.sys import libc, nr

ACCESS_READ = 0x1 | 0x4 | 0x8  # execute, read file, read dir
ACCESS_ALL_V1 = 0x1FFF

_create = libc.syscall(nr.LANDLOCK_CREATE_RULESET, libc.STR, libc.SIZE, libc.UINT)
_add_rule = libc.syscall(nr.LANDLOCK_ADD_RULE, libc.INT, libc.INT, libc.STR, libc.UINT)
_restrict = libc.syscall(nr.LANDLOCK_RESTRICT_SELF, libc.INT, libc.UINT)


def abi() -> int:
    """The kernel's Landlock version, 0 when it has none or it is off."""
    version: int = _create(None, 0, 1)
    return max(version, 0)


def handled_by(version: int) -> int:
    """Every file access right that ABI `version` knows."""
    return ACCESS_ALL_V1 | (0x2000 if version >= 2 else 0) | (0x4000 if version >= 3 else 0) | (0x8000 if version >= 5 else 0)


def restrict(rules: list[tuple[bytes, int]], handled: int) -> None:
    """Allow only `rules` (path, access mask) among the `handled` rights. Needs no_new_privs or CAP_SYS_ADMIN."""
    ruleset = libc.check(_create(struct.pack("=Q", handled), 8, 0), "landlock_create_ruleset")
    try:
        for path, access in rules:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                libc.check(_add_rule(ruleset, 1, struct.pack("=Qi", access & handled, fd), 0), "landlock_add_rule", path)
            finally:
                os.close(fd)
        libc.check(_restrict(ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)
