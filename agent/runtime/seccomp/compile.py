"""From an OCI `linux.seccomp` object to a classic BPF program.

The program checks the architecture, loads the system call number and binary-searches over maximal ranges of numbers with an equal
result; argument tests sit in the leaves. libseccomp walks a list instead: three times the instructions, and 20 ms to build.

Meaning, as libseccomp and runc have it: conditions of one entry AND, entries OR; an entry with two conditions on one argument
is one entry a condition; an entry without conditions beats those with; an entry whose action is the default is void; unknown
names are ignored. If the default refuses, numbers above the highest named one give ENOSYS, since a libc that probes for a new
call falls back only on that. Code of another architecture (i386 on x86_64) is killed: it would dodge every argument test.
"""

from __future__ import annotations

import errno
import struct
from _blake2 import blake2b  # hashlib loads OpenSSL: 3 MB in the supervisor

from agent.protocol.errors import InvalidInput
from agent.runtime.seccomp import tables
from agent.sys import nr
from agent.sys import seccomp as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Instruction = tuple[int, int, int, int]
    Condition = tuple[int, str, int, int]  # argument index, operator, value, value two
    Rule = tuple[tuple[Condition, ...], int]  # all of these -> action

VERSION = b"1"  # part of the cache key: change it with the generated code

LOAD, JUMP, RETURN, AND = 0x20, 0x05, 0x06, 0x54
JEQ, JGT, JGE = 0x15, 0x25, 0x35
FAIL, PASS = -1, -2  # jump targets filled in when a rule's end is known

KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
ALLOW = 0x7FFF0000
ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
OPERATORS = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ")
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # the filter is loaded by a process of one thread
    "SECCOMP_FILTER_FLAG_LOG": kernel.FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": kernel.FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": kernel.FLAG_WAIT_KILLABLE_RECV,
}
X32_BIT = 0x40000000
MASK32 = 0xFFFFFFFF

_cache: dict[bytes, tuple[bytes, int]] = {}
CACHE_SIZE = 64


def compile_profile(profile: dict[str, Any], machine: str = nr.MACHINE) -> tuple[bytes, int]:
    """(program of 8 bytes an instruction, flags for seccomp(2)). Cached by the profile's contents. Raises InvalidInput."""
    key = blake2b(VERSION + machine.encode() + repr(profile).encode(), digest_size=32).digest()
    found = _cache.get(key)
    if found is None:
        if len(_cache) >= CACHE_SIZE:
            _cache.pop(next(iter(_cache)))
        found = _cache[key] = (_assemble(_program(profile, machine)), _flags(profile))
    return found


def wants_listener(profile: dict[str, Any]) -> bool:
    """Whether any entry hands calls to a supervisor process."""
    return any(entry.get("action") == "SCMP_ACT_NOTIFY" for entry in profile.get("syscalls") or ())


def _flags(profile: dict[str, Any]) -> int:
    names = profile.get("flags")
    if names is None:
        return kernel.FLAG_SPEC_ALLOW
    flags = 0
    for name in names:
        if name not in FLAGS:
            raise InvalidInput(f"seccomp flag {name!r} is not known; use one of {', '.join(FLAGS)}")
        flags |= FLAGS[name]
    return flags | (kernel.FLAG_NEW_LISTENER if wants_listener(profile) else 0)


def _action(name: str, data: int | None) -> int:
    value = ACTIONS.get(name)
    if value is None:
        raise InvalidInput(f"seccomp action {name!r} is not known; use one of {', '.join(ACTIONS)}")
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= (errno.EPERM if data is None else data) & 0xFFFF
    return value


def _program(profile: dict[str, Any], machine: str) -> list[Instruction]:
    default = _action(profile.get("defaultAction", ""), profile.get("defaultErrnoRet"))
    rules = _rules(profile, default, tables.numbers(machine))
    body = _search(_ranges(rules, default))
    head: list[Instruction] = [
        (LOAD, 0, 0, 4),
        (JEQ, 1, 0, tables.AUDIT_ARCH[machine]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, 0),
    ]
    if machine == "x86_64":  # x32 numbers: its own table under the same architecture word; -1 is what a tracer leaves behind
        head += [(JGE, 0, 3, X32_BIT), (JEQ, 0, 1, MASK32), (RETURN, 0, 0, default), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    return head + body


def _rules(profile: dict[str, Any], default: int, numbers: dict[str, int]) -> dict[int, list[Rule]]:
    """Rules by number, in the profile's order."""
    rules: dict[int, list[Rule]] = {}
    for entry in profile.get("syscalls") or ():
        action = _action(entry.get("action", ""), entry.get("errnoRet"))
        if action == default:
            for name in entry["names"]:  # void, yet it names the call: the ENOSYS border counts it
                if name in numbers:
                    rules.setdefault(numbers[name], [])
            continue
        alternatives = _alternatives(entry.get("args") or ())
        for name in entry["names"]:
            if name in numbers:
                rules.setdefault(numbers[name], []).extend((conditions, action) for conditions in alternatives)
    return rules


def _alternatives(args: Any) -> list[tuple[Condition, ...]]:
    conditions: list[Condition] = []
    for arg in args:
        operator = arg.get("op")
        if operator not in OPERATORS or not 0 <= arg.get("index", -1) <= 5:
            raise InvalidInput(f"seccomp argument test {arg!r} is not valid; index is 0..5 and op one of {', '.join(OPERATORS)}")
        conditions.append((arg["index"], operator, arg.get("value", 0), arg.get("valueTwo", 0)))
    if len({condition[0] for condition in conditions}) < len(conditions):
        return [(condition,) for condition in conditions]
    return [tuple(conditions)]


def _ranges(rules: dict[int, list[Rule]], default: int) -> list[tuple[int, list[Instruction]]]:
    """(first number, leaf code) of each maximal range, from 0 up."""
    plain: list[Instruction] = [(RETURN, 0, 0, default)]
    ranges: list[tuple[int, list[Instruction]]] = [(0, plain)]
    expected = 0
    for number in sorted(rules):
        if number > expected and ranges[-1][1] != plain:
            ranges.append((expected, plain))
        leaf = _leaf(rules[number], default)
        if leaf != ranges[-1][1]:
            if ranges[-1][0] == number:
                ranges.pop()
            ranges.append((number, leaf))
        expected = number + 1
    refuses = default not in (ALLOW, ACTIONS["SCMP_ACT_LOG"])
    beyond: list[Instruction] = [(RETURN, 0, 0, ERRNO | errno.ENOSYS)] if refuses and rules else plain
    if beyond != ranges[-1][1]:
        ranges.append((expected, beyond))
    return ranges


def _leaf(rules: list[Rule], default: int) -> list[Instruction]:
    for conditions, action in rules:
        if not conditions:
            return [(RETURN, 0, 0, action)]
    code: list[Instruction] = []
    for conditions, action in rules:
        code += _conjunction(conditions, action)
    return [*code, (RETURN, 0, 0, default)]


def _conjunction(conditions: tuple[Condition, ...], action: int) -> list[Instruction]:
    """Tests that return `action` if all hold and else run off the end."""
    tests = [_test(condition) for condition in conditions]
    total = sum(len(test) for test in tests) + 1
    code: list[Instruction] = []
    for test in tests:
        end = len(code) + len(test)
        for operation, when_true, when_false, value in test:
            position = len(code) + 1
            targets = [
                total - position if jump == FAIL else end - position if jump == PASS else jump for jump in (when_true, when_false)
            ]
            code.append((operation, targets[0], targets[1], value))
    return [*code, (RETURN, 0, 0, action)]


def _test(condition: Condition) -> list[Instruction]:
    """One 64-bit comparison in 32-bit halves, high half first (struct seccomp_data, little endian)."""
    index, operator, value, value_two = condition
    low_at = 16 + 8 * index
    high, low = (value >> 32) & MASK32, value & MASK32
    if operator == "SCMP_CMP_MASKED_EQ":
        wanted = value & value_two
        return _masked(low_at + 4, high, wanted >> 32 & MASK32) + _masked(low_at, low, wanted & MASK32)
    load_high, load_low = (LOAD, 0, 0, low_at + 4), (LOAD, 0, 0, low_at)
    if operator == "SCMP_CMP_EQ":
        return [load_high, (JEQ, 0, FAIL, high), load_low, (JEQ, PASS, FAIL, low)]
    if operator == "SCMP_CMP_NE":
        return [load_high, (JEQ, 0, PASS, high), load_low, (JEQ, FAIL, PASS, low)]
    # x > y and x >= y; "less" is their negation
    yes, no = (PASS, FAIL) if operator in ("SCMP_CMP_GT", "SCMP_CMP_GE") else (FAIL, PASS)
    compare = JGT if operator in ("SCMP_CMP_GT", "SCMP_CMP_LE") else JGE
    return [load_high, (JGT, yes, 0, high), (JEQ, 0, no, high), load_low, (compare, yes, no, low)]


def _masked(offset: int, mask: int, wanted: int) -> list[Instruction]:
    if not mask:
        return []
    return [(LOAD, 0, 0, offset), (AND, 0, 0, mask), (JEQ, 0, FAIL, wanted)]


def _search(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """A balanced tree of >= tests; leaves return, so nothing falls through."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    left, right = _search(ranges[:middle]), _search(ranges[middle:])
    border = ranges[middle][0]
    if len(left) <= 255:
        return [(JGE, len(left), 0, border), *left, *right]
    return [(JGE, 0, 1, border), (JUMP, 0, 0, len(left)), *left, *right]  # conditional jumps are 8 bits wide


def _assemble(program: list[Instruction]) -> bytes:
    if len(program) > 4096:
        raise InvalidInput(
            f"the seccomp profile needs {len(program)} instructions, the kernel takes 4096; use fewer argument tests"
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
