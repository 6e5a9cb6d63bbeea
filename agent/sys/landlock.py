"""Landlock (landlock(7)): a process gives up access it does not need; inherited by children, irrevocable."""

from __future__ import annotations

import os
import struct

from agent.sys import libc, nr

ACCESS_READ = 0x1 | 0x4 | 0x8  # execute, read file, read dir
ACCESS_ALL_V1 = 0x1FFF
MAKE_CHAR = 0x40
MAKE_BLOCK = 0x800
REFER = 0x2000  # link or rename into another directory: refused by every ruleset that does not grant it
IOCTL_DEV = 0x8000
SCOPE_ABSTRACT_UNIX_SOCKET = 1
SCOPE_SIGNAL = 2

_create = libc.syscall(nr.LANDLOCK_CREATE_RULESET, libc.STR, libc.SIZE, libc.UINT)
_add_rule = libc.syscall(nr.LANDLOCK_ADD_RULE, libc.INT, libc.INT, libc.STR, libc.UINT)
_restrict = libc.syscall(nr.LANDLOCK_RESTRICT_SELF, libc.INT, libc.UINT)


def abi() -> int:
    """The kernel's Landlock version, 0 when it has none or it is off."""
    version: int = _create(None, 0, 1)
    return max(version, 0)


def handled_by(version: int) -> int:
    """Every file access right that ABI `version` knows."""
    return ACCESS_ALL_V1 | (REFER if version >= 2 else 0) | (0x4000 if version >= 3 else 0) | (IOCTL_DEV if version >= 5 else 0)


def ruleset(rules: list[tuple[bytes, int]], handled: int, scoped: int = 0) -> int:
    """Descriptor (close-on-exec) of rules that allow only these (path, access mask) among the `handled` rights.

    `scoped`: what may not cross from inside to outside (ABI 6).
    """
    attributes = struct.pack("=QQQ", handled, 0, scoped) if scoped else struct.pack("=Q", handled)
    made = libc.check(_create(attributes, len(attributes), 0), "landlock_create_ruleset")
    try:
        for path, access in rules:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                libc.check(_add_rule(made, 1, struct.pack("=Qi", access & handled, fd), 0), "landlock_add_rule", path)
            finally:
                os.close(fd)
    except BaseException:
        os.close(made)
        raise
    return made


def enforce(made: int) -> None:
    """Restrict the calling thread by a ruleset and close it. Needs no_new_privs or CAP_SYS_ADMIN."""
    try:
        libc.check(_restrict(made, 0), "landlock_restrict_self")
    finally:
        os.close(made)


def restrict(rules: list[tuple[bytes, int]], handled: int) -> None:
    """Make a ruleset and enforce it."""
    enforce(ruleset(rules, handled))
