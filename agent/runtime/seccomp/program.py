"""From rules to classic BPF: a balanced tree of number comparisons, argument tests in its leaves.

Numbers with an equal result form maximal ranges, so that the tree has few leaves; libseccomp walks a list instead: three times
the instructions, and 20 ms to build. An instruction is (operation, jump if true, jump if false, value); jumps count instructions
to skip (Documentation/networking/filter.rst).
"""

from __future__ import annotations

import struct

from agent.protocol.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.seccomp.rules import Condition, Rule

    Instruction = tuple[int, int, int, int]
    Code = list[Instruction]

LOAD, JUMP, RETURN, AND = 0x20, 0x05, 0x06, 0x54
JEQ, JGT, JGE = 0x15, 0x25, 0x35
FAIL, PASS = -1, -2  # jump targets filled in when a rule's end is known
MASK32 = 0xFFFFFFFF
LONGEST = 4096  # instructions that the kernel takes (BPF_MAXINSNS)


def returns(value: int) -> Code:
    return [(RETURN, 0, 0, value)]


def ranges(rules: dict[int, list[Rule]], default: int, beyond: int, border: int, wide: bool) -> list[tuple[int, Code]]:
    """(first number, leaf code) of each maximal range, from 0 up.

    Numbers without rules give `default` up to `border`, `beyond` above it. `wide`: arguments have 64 bits.
    """
    found: list[tuple[int, Code]] = [(0, returns(default))]
    expected = 0

    def add(number: int, code: Code) -> None:
        if code != found[-1][1]:
            if found[-1][0] == number:
                found.pop()
            found.append((number, code))

    for number in sorted(rules):
        if number > expected:
            add(expected, returns(default if expected <= border else beyond))
            if expected <= border < number - 1:
                add(border + 1, returns(beyond))
        add(number, _leaf(rules[number], default, wide))
        expected = number + 1
    add(expected, returns(beyond))
    return found


def search(parts: list[tuple[int, Code]]) -> Code:
    """A balanced tree of >= tests; leaves return, so nothing falls through."""
    if len(parts) == 1:
        return parts[0][1]
    middle = len(parts) // 2
    left, right = search(parts[:middle]), search(parts[middle:])
    border = parts[middle][0]
    if len(left) <= 255:
        return [(JGE, len(left), 0, border), *left, *right]
    return [(JGE, 0, 1, border), (JUMP, 0, 0, len(left)), *left, *right]  # conditional jumps are 8 bits wide


def when_equal(value: int, code: Code) -> Code:
    """Run `code`, which returns, if the accumulator is `value`; else go on behind it."""
    if len(code) <= 255:
        return [(JEQ, 0, len(code), value), *code]
    return [(JEQ, 1, 0, value), (JUMP, 0, 0, len(code)), *code]


def assemble(program: Code) -> bytes:
    """8 bytes an instruction (struct sock_filter). Raises InvalidInput when the kernel would not take that many."""
    if len(program) > LONGEST:
        raise InvalidInput(
            f"the seccomp profile needs {len(program)} instructions, the kernel takes {LONGEST}; use fewer argument tests"
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _leaf(rules: list[Rule], default: int, wide: bool) -> Code:
    for conditions, action in rules:
        if not conditions:
            return returns(action)
    code: Code = []
    for conditions, action in rules:
        code += _conjunction(conditions, action, wide)
    return [*code, *returns(default)]


def _conjunction(conditions: tuple[Condition, ...], action: int, wide: bool) -> Code:
    """Tests that return `action` if all hold and else run off the end."""
    tests = [_test(condition) if wide else _narrow(condition) for condition in conditions]
    total = sum(len(test) for test in tests) + 1
    code: Code = []
    for test in tests:
        end = len(code) + len(test)
        for operation, when_true, when_false, value in test:
            position = len(code) + 1
            targets = [
                total - position if jump == FAIL else end - position if jump == PASS else jump for jump in (when_true, when_false)
            ]
            code.append((operation, targets[0], targets[1], value))
    return [*code, (RETURN, 0, 0, action)]


def _test(condition: Condition) -> Code:
    """One 64-bit comparison in 32-bit halves, high half first (struct seccomp_data, little endian)."""
    index, operator, value, value_two = condition
    low_at = 16 + 8 * index
    high, low = value >> 32, value & MASK32
    if operator == "SCMP_CMP_MASKED_EQ":
        wanted = value & value_two
        return _masked(low_at + 4, high, wanted >> 32) + _masked(low_at, low, wanted & MASK32)
    load_high, load_low = (LOAD, 0, 0, low_at + 4), (LOAD, 0, 0, low_at)
    if operator == "SCMP_CMP_EQ":
        return [load_high, (JEQ, 0, FAIL, high), load_low, (JEQ, PASS, FAIL, low)]
    if operator == "SCMP_CMP_NE":
        return [load_high, (JEQ, 0, PASS, high), load_low, (JEQ, FAIL, PASS, low)]
    yes, no, compare = _order(operator)
    return [load_high, (JGT, yes, 0, high), (JEQ, 0, no, high), load_low, (compare, yes, no, low)]


def _narrow(condition: Condition) -> Code:
    """The same where arguments have 32 bits: the high halves of value and argument mean nothing, as for libseccomp."""
    index, operator, value, value_two = condition
    at, low = 16 + 8 * index, value & MASK32
    if operator == "SCMP_CMP_MASKED_EQ":
        return _masked(at, low, low & value_two)
    if operator in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        yes, no = (PASS, FAIL) if operator == "SCMP_CMP_EQ" else (FAIL, PASS)
        return [(LOAD, 0, 0, at), (JEQ, yes, no, low)]
    yes, no, compare = _order(operator)
    return [(LOAD, 0, 0, at), (compare, yes, no, low)]


def _order(operator: str) -> tuple[int, int, int]:
    """Targets and operation of x > y and x >= y; "less" is their negation."""
    yes, no = (PASS, FAIL) if operator in ("SCMP_CMP_GT", "SCMP_CMP_GE") else (FAIL, PASS)
    return yes, no, JGT if operator in ("SCMP_CMP_GT", "SCMP_CMP_LE") else JGE


def _masked(offset: int, mask: int, wanted: int) -> Code:
    if not mask:
        return []
    return [(LOAD, 0, 0, offset), (AND, 0, 0, mask), (JEQ, 0, FAIL, wanted)]
