"""Device access: v1 deny/allow lines, or on v2 a BPF program with the very same meaning."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = tuple[bool, str, int, int, str]  # allow, type a|b|c, major, minor (-1 any), access

# What every container may use whatever its rules say; mknod of any node is harmless while it cannot be opened.
ALWAYS: list[Rule] = [
    (True, "c", -1, -1, "m"),
    (True, "b", -1, -1, "m"),
    (True, "c", 1, 3, "rwm"),  # null
    (True, "c", 1, 5, "rwm"),  # zero
    (True, "c", 1, 7, "rwm"),  # full
    (True, "c", 1, 8, "rwm"),  # random
    (True, "c", 1, 9, "rwm"),  # urandom
    (True, "c", 5, 0, "rwm"),  # tty
    (True, "c", 5, 2, "rwm"),  # ptmx
    (True, "c", 136, -1, "rwm"),  # pts
]

ACCESS_BITS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
TYPE_NUMBERS = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*


def rules(devices: Any) -> list[Rule]:
    """Ordered rules of `linux.resources.devices`, beginning from nothing allowed."""
    found: list[Rule] = [(False, "a", -1, -1, "rwm")]
    for item in devices or ():
        access = "".join(letter for letter in "rwm" if letter in (item.get("access") or "rwm"))
        if not access:
            continue  # other letters mean nothing, as under runc
        major, minor = item.get("major"), item.get("minor")
        found.append(
            (
                bool(item["allow"]),
                item.get("type") or "a",
                -1 if major is None else major,
                -1 if minor is None else minor,
                access,
            )
        )
    return found + ALWAYS


def v1_writes(ordered: list[Rule]) -> list[tuple[str, list[str]]]:
    """(file, lines) in order. A rule for everything begins anew, so what stands before the last one is left out."""
    writes: list[tuple[str, list[str]]] = []
    for allow, kind, major, minor, access in ordered:
        line = f"{kind} {'*' if major < 0 else major}:{'*' if minor < 0 else minor} {access}"
        if kind == "a" and major < 0 and minor < 0:
            line = "a"
            writes.clear()
        file = "devices.allow" if allow else "devices.deny"
        if not writes or writes[-1][0] != file:
            writes.append((file, []))
        writes[-1][1].append(line)
    return writes


def program(ordered: list[Rule]) -> bytes:
    """eBPF for BPF_PROG_TYPE_CGROUP_DEVICE: returns 1 to allow.

    v1 keeps a default and exceptions to it; so do we. With default deny an exception must cover every access asked for, with
    default allow one that touches any of them refuses.
    """
    default_allow, exceptions = _normalise(ordered)
    code = [
        _insn(0x61, 2, 1, 0, 0),  # r2 = access << 16 | type
        _insn(0xBF, 3, 2, 0, 0),
        _insn(0x57, 2, 0, 0, 0xFFFF),  # r2 = type
        _insn(0x77, 3, 0, 0, 16),  # r3 = access
        _insn(0x61, 4, 1, 4, 0),  # r4 = major
        _insn(0x61, 5, 1, 8, 0),  # r5 = minor
    ]
    for (kind, major, minor), access in exceptions.items():
        code += _exception(kind, major, minor, access, default_allow)
    code += [_insn(0xB7, 0, 0, 0, int(default_allow)), _insn(0x95, 0, 0, 0, 0)]
    return b"".join(code)


def _normalise(ordered: list[Rule]) -> tuple[bool, dict[tuple[str, int, int], int]]:
    default_allow = False
    exceptions: dict[tuple[str, int, int], int] = {}
    for allow, kind, major, minor, access in ordered:
        if kind == "a" and major < 0 and minor < 0:
            default_allow = allow
            exceptions.clear()
            continue
        bits = sum(ACCESS_BITS[letter] for letter in set(access))
        for each in ("b", "c") if kind == "a" else (kind,):
            key = (each, major, minor)
            exceptions[key] = exceptions.get(key, 0) | bits if allow != default_allow else exceptions.get(key, 0) & ~bits
    return default_allow, {key: bits for key, bits in exceptions.items() if bits}


def _exception(kind: str, major: int, minor: int, access: int, default_allow: bool) -> list[bytes]:
    tests: list[tuple[int, int, int, int]] = [(0x55, 2, 0, TYPE_NUMBERS[kind])]  # jne r2, type
    if major >= 0:
        tests.append((0x55, 4, 0, major))
    if minor >= 0:
        tests.append((0x55, 5, 0, minor))
    body: list[bytes] = []
    if access != 7:
        body.append(_insn(0xBF, 1, 3, 0, 0))
        if default_allow:
            body += [_insn(0x57, 1, 0, 0, access), _insn(0x15, 1, 0, 2, 0)]  # nothing of it asked for: next exception
        else:
            body += [_insn(0x57, 1, 0, 0, ~access & 7), _insn(0x55, 1, 0, 2, 0)]  # more than it was asked for: next
    body += [_insn(0xB7, 0, 0, 0, int(not default_allow)), _insn(0x95, 0, 0, 0, 0)]
    size = len(tests) + len(body)
    head = [_insn(code, dst, src, size - position - 1, imm) for position, (code, dst, src, imm) in enumerate(tests)]
    return head + body


def _insn(code: int, dst: int, src: int, offset: int, immediate: int) -> bytes:
    return struct.pack("=BBhi", code, dst | src << 4, offset, immediate)
