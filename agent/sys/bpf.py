"""Load and attach a cgroup device program (bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE)."""

from __future__ import annotations

import ctypes
import os

from agent.sys import libc, nr

PROG_LOAD = 5
PROG_ATTACH = 8
PROG_DETACH = 9
PROG_QUERY = 16
PROG_TYPE_CGROUP_DEVICE = 15
CGROUP_DEVICE = 6
F_ALLOW_MULTI = 2
F_REPLACE = 4


class _Load(ctypes.Structure):
    _fields_ = [
        ("prog_type", ctypes.c_uint32), ("insn_cnt", ctypes.c_uint32), ("insns", ctypes.c_uint64), ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32), ("log_size", ctypes.c_uint32), ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32), ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16), ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    ]  # fmt: skip


class _Attach(ctypes.Structure):
    _fields_ = [
        ("target_fd", ctypes.c_uint32), ("attach_bpf_fd", ctypes.c_uint32), ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32), ("replace_bpf_fd", ctypes.c_uint32),
    ]  # fmt: skip


_bpf = libc.syscall(nr.BPF, libc.INT, libc.PTR, libc.UINT)


def load_device_program(program: bytes) -> int:
    """The program's fd. 8 bytes an instruction; on refusal the verifier's log ends up in the error."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    log = ctypes.create_string_buffer(65536)
    attr = _Load(
        prog_type=PROG_TYPE_CGROUP_DEVICE, insn_cnt=len(program) // 8, insns=ctypes.addressof(code),
        license=ctypes.addressof(licence), log_level=1, log_size=len(log), log_buf=ctypes.addressof(log),
        prog_name=b"wharf_devices", expected_attach_type=CGROUP_DEVICE,
    )  # fmt: skip
    fd: int = _bpf(PROG_LOAD, ctypes.addressof(attr), ctypes.sizeof(attr))
    if fd < 0:
        error = libc.oserror("bpf program load")
        raise OSError(error.errno, f"{error.strerror} {log.value[-400:].decode(errors='replace')}")
    return fd


def attach_device_program(cgroup_fd: int, program_fd: int, replace_fd: int = -1) -> None:
    """Attach to a v2 cgroup; with `replace_fd` swap the earlier program in one step, so that no moment is unguarded."""
    attr = _Attach(
        cgroup_fd, program_fd, CGROUP_DEVICE, F_ALLOW_MULTI | (F_REPLACE if replace_fd >= 0 else 0), max(replace_fd, 0)
    )
    libc.check(_bpf(PROG_ATTACH, ctypes.addressof(attr), ctypes.sizeof(attr)), "bpf program attach")


class _Query(ctypes.Structure):
    _fields_ = [
        ("target_fd", ctypes.c_uint32), ("attach_type", ctypes.c_uint32), ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32), ("prog_ids", ctypes.c_uint64), ("prog_cnt", ctypes.c_uint32),
    ]  # fmt: skip


PROG_GET_FD_BY_ID = 13


def attached_device_programs(cgroup_fd: int) -> list[int]:
    """Fds of the programs attached to this cgroup, for a later replacement by a process that did not attach them."""
    ids = (ctypes.c_uint32 * 64)()
    query = _Query(cgroup_fd, CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), 64)
    libc.check(_bpf(PROG_QUERY, ctypes.addressof(query), ctypes.sizeof(query)), "bpf program query")
    found = []
    for number in ids[: query.prog_cnt]:
        wanted = (ctypes.c_uint32 * 3)(number, 0, 0)
        fd: int = _bpf(PROG_GET_FD_BY_ID, ctypes.addressof(wanted), ctypes.sizeof(wanted))
        if fd >= 0:
            os.set_inheritable(fd, False)
            found.append(fd)
    return found
