"""Whether this process is root of the machine: an ordinary user, and root of a user namespace, may do less."""

from __future__ import annotations

import os

_EVERYBODY = ["0", "0", "4294967295"]  # the only line of the initial namespace's map (user_namespaces(7))
_initial: bool | None = None


def privileged() -> bool:
    """Effective user 0 of the initial user namespace."""
    return os.geteuid() == 0 and _in_initial_namespace()


def outer_uid() -> int:
    """Our effective user as the namespace's maker numbers it; the same where nothing is mapped."""
    uid = os.geteuid()
    for inside, outside, size in _own_map():
        if inside <= uid < inside + size:
            return outside + uid - inside
    return uid


def _in_initial_namespace() -> bool:
    global _initial
    if _initial is None:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            _initial = file.read().split() == _EVERYBODY
    return _initial


def _own_map() -> list[tuple[int, int, int]]:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        rows = [tuple(int(word) for word in line.split()) for line in file]
    return [(row[0], row[1], row[2]) for row in rows]
