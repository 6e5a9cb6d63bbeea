"""D-Bus values as bytes and back (D-Bus specification, "Marshaling (Wire Format)"), little endian.

Python's side of a type: numbers are int, `b` bool, `s o g` str, `v` a pair (signature, value), a struct a tuple, an array a list,
an array of bytes `ay` bytes, an array of dict entries a dict.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NUMBERS = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
ALIGNMENT = {
    "y": 1, "g": 1, "v": 1, "n": 2, "q": 2,
    "i": 4, "u": 4, "b": 4, "s": 4, "o": 4, "a": 4, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8,
}  # fmt: skip


def split(signature: str) -> list[str]:
    """The complete types that a signature is made of: "sa(sv)u" -> ["s", "a(sv)", "u"]. ValueError if it is none."""
    types = []
    at = 0
    while at < len(signature):
        end = _end(signature, at)
        types.append(signature[at:end])
        at = end
    return types


def _end(signature: str, at: int) -> int:
    letter = signature[at : at + 1]
    if letter == "a":
        return _end(signature, at + 1)
    if letter in ("(", "{") and letter and signature[at : at + 2] not in ("()", "{}"):
        depth = 0
        for index in range(at, len(signature)):
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(signature[index], 0)
            if depth == 0:
                return index + 1
    elif letter in ALIGNMENT and letter:
        return at + 1
    raise ValueError(f"{signature!r} is not a D-Bus signature")


class Writer:
    """`data` begins at an offset that is a multiple of 8."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        self.data += b"\0" * (-len(self.data) % size)

    def put(self, signature: str, values: tuple[Any, ...] | list[Any]) -> None:
        for each, value in zip(split(signature), values, strict=True):
            self.value(each, value)

    def value(self, kind: str, value: Any) -> None:
        self.align(ALIGNMENT[kind[0]])
        if kind in NUMBERS:
            self.data += struct.pack("<" + NUMBERS[kind], value)
        elif kind == "b":
            self.data += struct.pack("<I", bool(value))
        elif kind in ("s", "o"):
            text = value.encode()
            self.data += struct.pack("<I", len(text)) + text + b"\0"
        elif kind == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif kind == "v":
            self.value("g", value[0])
            self.value(value[0], value[1])
        elif kind[0] == "a":
            self._array(kind[1:], value)
        else:
            self.put(kind[1:-1], value)

    def _array(self, item: str, value: Any) -> None:
        place = len(self.data)
        self.data += b"\0\0\0\0"
        self.align(ALIGNMENT[item[0]])  # not counted in the length
        start = len(self.data)
        if item == "y":
            self.data += value
        else:
            for each in value.items() if item[0] == "{" else value:
                self.value(item, each)
        struct.pack_into("<I", self.data, place, len(self.data) - start)


class Reader:
    """Reads `data`, of either byte order, from an offset that is a multiple of 8. ValueError for what is not D-Bus."""

    __slots__ = ("at", "data", "order")

    def __init__(self, data: bytes, order: str = "<") -> None:
        self.data, self.order, self.at = data, order, 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) != size:
            raise ValueError("a D-Bus message ends before its values do")
        self.at += size
        return piece

    def align(self, size: int) -> None:
        self.at += -self.at % size

    def get(self, signature: str) -> list[Any]:
        return [self.value(kind) for kind in split(signature)]

    def value(self, kind: str) -> Any:
        self.align(ALIGNMENT[kind[0]])
        if kind in NUMBERS:
            code = self.order + NUMBERS[kind]
            return struct.unpack(code, self.take(struct.calcsize(code)))[0]
        if kind == "b":
            return self.value("u") != 0
        if kind in ("s", "o", "g"):
            length = self.value("y" if kind == "g" else "u")
            return self.take(length + 1)[:-1].decode()
        if kind == "v":
            inner = split(self.value("g"))
            if len(inner) != 1:
                raise ValueError("a D-Bus variant holds one value")
            return inner[0], self.value(inner[0])
        if kind[0] == "a":
            return self._array(kind[1:])
        return tuple(self.get(kind[1:-1]))

    def _array(self, item: str) -> Any:
        length = self.value("u")
        self.align(ALIGNMENT[item[0]])
        end = self.at + length
        if item == "y":
            return self.take(length)
        found = []
        while self.at < end:
            found.append(self.value(item))
        return dict(found) if item[0] == "{" else found
