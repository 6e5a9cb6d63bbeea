"""Filters on the real kernel: architectures, flags, actions, notification."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.errors import RuntimeFailed
from agent.runtime.seccomp.profile import default_profile
from tests.conformance.runtime.conftest import Runner

needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 runs i386 programs")
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_*


def program_32(code: bytes) -> bytes:
    """A static i386 ELF file of one segment (System V ABI, Intel386 supplement)."""
    base, headers = 0x08048000, 84
    header = b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIIIIIHHHHHH", 2, 3, 1, base + headers, 52, 0, 0, 52, 32, 1, 0, 0, 0
    )
    size = headers + len(code)
    return header + struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 4096) + code


EXIT_7 = bytes.fromhex("b801000000bb07000000cd80")  # exit(7)
SOCKETCALL_AF_ALG = bytes.fromhex(
    "6a006a056a26"  # 0, SOCK_SEQPACKET, AF_ALG on the stack
    "b866000000bb0100000089e1cd80"  # eax = socketcall(1, esp)
    "89c385c0780431dbeb02f7db"  # ebx = eax < 0 ? -eax : 0
    "b801000000cd80"  # exit(ebx)
)


def use(**changes: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        profile = default_profile()
        if "defaultAction" in changes:
            del profile["defaultErrnoRet"]  # which few actions carry
        config["linux"]["seccomp"] = {**profile, **changes}

    return change


def allow_all(*entries: dict[str, Any], **more: Any) -> Any:
    return use(defaultAction="SCMP_ACT_ALLOW", syscalls=list(entries), **more)


def install(rootfs: Path, code: bytes) -> None:
    (rootfs / "bin/p32").write_bytes(program_32(code))
    (rootfs / "bin/p32").chmod(0o755)


@needs_x86
def test_a_foreign_architecture_is_killed_unless_the_profile_names_it(runner: Runner, rootfs: Path) -> None:
    install(rootfs, EXIT_7)
    assert runner.run("p32", root=rootfs, privileged=True).status == 7  # the program is sound, the kernel runs it
    assert runner.run("p32", root=rootfs).status == 128 + signal.SIGSYS
    named = use(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    assert runner.run("p32", root=rootfs, change=named).status == 7


@needs_x86
def test_a_socket_family_cannot_be_had_by_the_second_door(runner: Runner, rootfs: Path) -> None:
    """Docker's profile names i386 and allows socketcall: its filter of socket families is void there."""
    install(rootfs, SOCKETCALL_AF_ALG)
    arches = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    dockers = default_profile()
    dockers["syscalls"][0]["names"] += ["socketcall"]
    naive = runner.run("p32", root=rootfs, change=use(architectures=arches, syscalls=dockers["syscalls"]))
    assert naive.status != 1, "the attack does not work at all"  # a socket, or EAFNOSUPPORT: the kernel was asked
    assert runner.run("p32", root=rootfs, change=use(architectures=arches)).status == 1  # EPERM


@pytest.mark.parametrize(
    "flags", [[], ["LOG"], ["SPEC_ALLOW"], ["TSYNC"], ["LOG", "SPEC_ALLOW", "TSYNC"], ["WAIT_KILLABLE_RECV"]]
)
def test_the_kernel_takes_the_flags(runner: Runner, flags: list[str]) -> None:
    names = [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]
    assert runner.run("grep", "Seccomp:", "/proc/self/status", change=use(flags=names)).output.split() == ["Seccomp:", "2"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 28}, "No space left on device"),
        ({"action": "SCMP_ACT_ERRNO"}, "Operation not permitted"),
        ({"action": "SCMP_ACT_TRACE"}, "Function not implemented"),  # nobody traces: ENOSYS
        ({"action": "SCMP_ACT_LOG"}, "done"),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, "Bad system call"),
        ({"action": "SCMP_ACT_KILL"}, "Bad system call"),
        ({"action": "SCMP_ACT_TRAP"}, "Bad system call"),
    ],
)
def test_actions(runner: Runner, action: dict[str, Any], expected: str) -> None:
    script = "mkdir /dev/shm/d && echo done; true"
    outcome = runner.sh(script, change=allow_all({"names": ["mkdir", "mkdirat"], **action}))
    assert expected in outcome.output


def test_an_unknown_name_is_an_error_only_with_the_annotation(runner: Runner) -> None:
    calls = {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}
    assert runner.run("true", change=allow_all(calls)).status == 0

    def strict(config: dict[str, Any]) -> None:
        allow_all(calls)(config)
        config["annotations"] = {"run.oci.seccomp_fail_unknown_syscall": "1"}

    with pytest.raises(Exception, match="no_such_call"):
        runner.plan("true", change=strict)


def test_a_notified_call_gets_the_listeners_answer(runner: Runner, tmp_path: Path) -> None:
    """The flags are the default ones: a notify action alone asks for a listener."""
    path = str(tmp_path / "listener.sock")
    call = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(20)
        running = runner.start(
            "sh", "-c", "mkdir /dev/shm/x && echo done", change=allow_all(call, listenerPath=path, listenerMetadata="berth")
        )
        connection, _ = server.accept()
        with connection:
            message, fds, _, _ = socket.recv_fds(connection, 65536, 2)
    assert json.loads(message)["metadata"] == "berth"
    try:
        notification = fcntl.ioctl(fds[0], NOTIF_RECV, bytes(80))  # struct seccomp_notif
        fcntl.ioctl(fds[0], NOTIF_SEND, struct.pack("=QqiI", struct.unpack_from("=Q", notification)[0], 0, 0, 0))  # "it is made"
    finally:
        os.close(fds[0])
    assert running.wait().output == "done\n"


def test_a_listener_that_is_not_there_is_named(runner: Runner, tmp_path: Path) -> None:
    call = {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}
    with pytest.raises(RuntimeFailed, match="cannot be reached"):
        runner.run("true", change=allow_all(call, listenerPath=str(tmp_path / "nobody.sock")))
