"""The system calls that the probe tries: every one of the machine's table with arguments that no kernel accepts, and some that
a filter judges by their arguments. The filter's, a missing right's and the kernel's own refusals have different errors."""

from __future__ import annotations

import socket

from agent.runtime.seccomp import tables

# these end, stop, replace or duplicate the caller, or disturb the machine
LEFT_OUT = "exit exit_group pause rt_sigreturn restart_syscall vfork fork clone clone3 sync reboot execve execveat arch_prctl"
BY_ARGUMENT = (
    ("socket unix", "socket", [socket.AF_UNIX, socket.SOCK_STREAM, 0]),
    ("socket inet", "socket", [socket.AF_INET, socket.SOCK_STREAM, 0]),
    ("socket ping", "socket", [socket.AF_INET, socket.SOCK_DGRAM, 1]),
    ("socket raw", "socket", [socket.AF_INET, socket.SOCK_RAW, 1]),
    ("socket packet", "socket", [socket.AF_PACKET, socket.SOCK_RAW, 0]),
    ("socket alg", "socket", [38, socket.SOCK_SEQPACKET, 0]),
    ("socket vsock", "socket", [40, socket.SOCK_STREAM, 0]),
    ("personality of Linux", "personality", [0]),
    ("personality without randomisation", "personality", [0x0040000]),
    ("unshare user", "unshare", [0x10000000]),
    ("unshare mount", "unshare", [0x00020000]),
    ("unshare files", "unshare", [0x00000400]),
    ("clone3 of nothing", "clone3", [0, 0]),
    ("setuid 1", "setuid", [1]),
    ("setgid 1", "setgid", [1]),
    ("setgroups none", "setgroups", [0, 0]),
    ("setpriority up", "setpriority", [0, 0, -1]),
)
BEYOND = 1000  # no kernel has it
Call = tuple[str, int, list[int]]  # name, number, arguments


def table(machine: str) -> list[Call]:
    """For a key of the architectures' table."""
    numbers = tables.numbers(machine)
    plain = [(name, number, [-1] * 6) for name, number in sorted(numbers.items()) if name not in LEFT_OUT.split()]
    special = [(name, numbers[call], arguments) for name, call, arguments in BY_ARGUMENT]
    return [*plain, *special, ("beyond the table", BEYOND, [])]
