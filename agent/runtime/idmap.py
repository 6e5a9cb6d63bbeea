"""Id maps of a new user namespace, written from outside: by root itself, for anybody else by newuidmap and newgidmap (shadow)."""

from __future__ import annotations

import os

from agent.runtime.errors import RuntimeFailed

_NOT_INSTALLED = 127


def write(pid: int, uid_map: str, gid_map: str) -> None:
    """Maps as lines of uid_map for the namespace of `pid`. An ordinary user may map himself alone, and only with setgroups(2)
    denied; ranges that /etc/subuid and /etc/subgid give him are mapped by the helpers. Raises OSError, RuntimeFailed."""
    if os.geteuid() == 0:
        put(f"/proc/{pid}/uid_map", uid_map)
        put(f"/proc/{pid}/gid_map", gid_map)
        return
    if _himself(uid_map, os.geteuid()) and _himself(gid_map, os.getegid()):
        put(f"/proc/{pid}/uid_map", uid_map)
        put(f"/proc/{pid}/setgroups", "deny")
        put(f"/proc/{pid}/gid_map", gid_map)
        return
    _help("newuidmap", pid, uid_map, "/etc/subuid")
    _help("newgidmap", pid, gid_map, "/etc/subgid")


def groups_denied() -> bool:
    """Whether setgroups(2) is denied in our user namespace. /proc must be one to be trusted."""
    with open("/proc/self/setgroups", encoding="ascii") as file:
        return file.read().strip() == "deny"


def put(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _himself(id_map: str, own: int) -> bool:
    words = id_map.split()
    return len(words) == 3 and words[1:] == [str(own), "1"]


def _help(program: str, pid: int, id_map: str, file: str) -> None:
    from agent.sys import programs  # and subprocess, only where root would not need it

    try:
        programs.run(program, str(pid), *id_map.split())
    except programs.ProgramFailed as error:
        if error.status == _NOT_INSTALLED:
            detail = f"{program} is not installed: install the package uidmap, or map nothing but your own id"
        else:
            detail = f"{program} refused to map {' '.join(id_map.split())}: {error.reason}; {file} says which ids are yours"
        raise RuntimeFailed(detail, stage="user namespace", errno=0) from error
