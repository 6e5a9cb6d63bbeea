"""Classic BPF as the kernel runs it for seccomp, and boundary values to run it on."""

from __future__ import annotations

import struct

X86 = 0xC000003E


def interpret(program: bytes, number: int, args: tuple[int, ...] = (0,) * 6, arch: int = X86) -> int:
    """Classic BPF as the kernel runs it for seccomp (Documentation/networking/filter.rst)."""
    data = struct.pack("=iIQ6Q", number if number < 2**31 else number - 2**32, arch, 0, *args)
    position = accumulator = 0
    while True:
        code, when_true, when_false, value = struct.unpack_from("=HBBI", program, position * 8)
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return int(value)
        elif code == 0x05:
            position += value
        elif code == 0x54:
            accumulator &= value
        else:
            hit = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value, 0x45: accumulator & value}[
                code
            ]
            position += when_true if hit else when_false


VALUES = (0, 1, 2, 37, 38, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 0x100000001, 0x7E020000, 2**63, 2**64 - 1)
MEANING = {
    "NE": lambda x, a, b: x != a,
    "LT": lambda x, a, b: x < a,
    "LE": lambda x, a, b: x <= a,
    "EQ": lambda x, a, b: x == a,
    "GE": lambda x, a, b: x >= a,
    "GT": lambda x, a, b: x > a,
    "MASKED_EQ": lambda x, a, b: x & a == b & a,
}
