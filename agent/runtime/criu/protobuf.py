"""As much of protocol buffers as criu's messages need (protobuf.dev, "Encoding"): varints and length-delimited fields."""

from __future__ import annotations

from collections.abc import Iterable

Value = int | str | bytes | None
Fields = dict[int, list[int | bytes]]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def message(fields: Iterable[tuple[int, Value]]) -> bytes:
    """(field number, value) in order. A number or bool is a varint, text and bytes (also of an inner message) are delimited;
    None is left out."""
    data = bytearray()
    for number, value in fields:
        if value is None:
            continue
        if isinstance(value, int):
            data += _varint(number << 3 | VARINT) + _varint(int(value) & (1 << 64) - 1)
        else:
            content = value.encode() if isinstance(value, str) else value
            data += _varint(number << 3 | BYTES) + _varint(len(content)) + content
    return bytes(data)


def parse(data: bytes) -> Fields:
    """Field number -> its values, in order; negative numbers come back negative. ValueError if it is no message."""
    found: Fields = {}
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        value: int | bytes
        if kind == VARINT:
            value, at = _read_varint(data, at)
            value -= (value >> 63) << 64
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(kind)
            if kind == BYTES:
                size, at = _read_varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError("not a protocol buffer message")
            value, at = data[at : at + size], at + size
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("not a protocol buffer message")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & (1 << 64) - 1, at
