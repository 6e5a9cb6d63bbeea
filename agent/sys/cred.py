"""Capabilities and ids (capabilities(7), capset(2), setresuid(2)) of the calling thread, by raw system calls.

Raw, because glibc's setxid wrappers signal every other thread, and a cloned child has none.
"""

from __future__ import annotations

import ctypes
import struct

from agent.sys import libc, nr, process

_HEADER = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)  # _LINUX_CAPABILITY_VERSION_3, this thread

_capset = libc.syscall(nr.CAPSET, libc.PTR, libc.PTR)
_capget = libc.syscall(nr.CAPGET, libc.PTR, libc.PTR)
_setresuid = libc.syscall(nr.SETRESUID, libc.UINT, libc.UINT, libc.UINT)
_setfsuid = libc.function("setfsuid", libc.INT)
_setfsgid = libc.function("setfsgid", libc.INT)
_setresgid = libc.syscall(nr.SETRESGID, libc.UINT, libc.UINT, libc.UINT)
_setgroups = libc.syscall(nr.SETGROUPS, libc.SIZE, libc.PTR)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """The three sets as bit masks."""
    low = 0xFFFFFFFF
    data = struct.pack(
        "=6I", effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    buffer = ctypes.create_string_buffer(data, len(data))
    libc.check(_capset(ctypes.addressof(_HEADER), ctypes.addressof(buffer)), "capset")


def permitted_capabilities() -> int:
    buffer = ctypes.create_string_buffer(24)
    libc.check(_capget(ctypes.addressof(_HEADER), ctypes.addressof(buffer)), "capget")
    words = struct.unpack("=6I", buffer.raw)
    return int(words[1] | words[4] << 32)


def drop_bounding(keep: int, last_cap: int) -> None:
    """Drop every capability that is not in the mask `keep` from the bounding set."""
    for number in range(last_cap + 1):
        if not keep >> number & 1:
            process.prctl(process.PR_CAPBSET_DROP, number)


def set_filesystem_ids(uid: int, gid: int) -> None:
    """Create and open files as `uid`, `gid`, with every permitted capability kept effective (setfsuid(2) would drop some)."""
    permitted = permitted_capabilities()
    _setfsgid(gid)
    _setfsuid(uid)  # neither reports errors: ask again with an invalid id
    if _setfsuid(-1) != uid or _setfsgid(-1) != gid:
        raise OSError(1, f"setfsuid: cannot act as {uid}:{gid}")
    set_capabilities(permitted, permitted, 0)


def set_ambient(mask: int) -> None:
    process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(64):
        if mask >> number & 1:
            process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_RAISE, number)


def set_ids(uid: int, gid: int, groups: list[int] | None) -> None:
    """Groups first, the user last: after it the right to change the others is gone. None leaves the groups alone."""
    if groups is not None:
        array = (ctypes.c_uint32 * len(groups))(*groups)
        libc.check(_setgroups(len(groups), ctypes.addressof(array)), "setgroups")
    libc.check(_setresgid(gid, gid, gid), "setresgid")
    libc.check(_setresuid(uid, uid, uid), "setresuid")
