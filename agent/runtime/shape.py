"""Check parsed JSON against a shape, and name the key that is wrong.

A shape is `str`, `bool`, a `range` (an integer within it), `[shape]` (a list), `{None: shape}` (an object with keys of the user's
choice), `Words` (one of some strings) or `Fields` (an object with known keys). JSON's null counts as absent, unknown keys are
ignored (runtime-spec config.md, "Extensibility").
"""

from __future__ import annotations

from agent.runtime.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

U16, U32, U64 = range(1 << 16), range(1 << 32), range(1 << 64)
I32, I64 = range(-(1 << 31), 1 << 31), range(-(1 << 63), 1 << 63)


class Words:
    __slots__ = ("known",)

    def __init__(self, *known: str) -> None:
        self.known = known


class Fields:
    """`required`: names separated by blanks."""

    __slots__ = ("known", "required")

    def __init__(self, required: str = "", /, **known: Any) -> None:
        self.required = required.split()
        self.known = known


def check(value: Any, shape: Any, where: str) -> None:
    """Raises InvalidConfig; `where` names `value`, for example "process.args"."""
    if value is None:
        return
    if type(shape) is Fields:
        _fields(value, shape, where)
    elif type(shape) is list:
        _list(value, shape[0], where)
    elif type(shape) is dict:
        _map(value, shape[None], where)
    elif shape is str:
        _text(value, where)
    elif type(shape) is range:
        if type(value) is not int or value not in shape:
            raise InvalidConfig(f"{where} is {_short(value)}; it must be a whole number from {shape[0]} to {shape[-1]}")
    elif type(shape) is Words:
        if type(value) is not str or value not in shape.known:
            raise InvalidConfig(f"{where} is {_short(value)}; use one of {', '.join(shape.known)}")
    else:
        _expect(value, shape, "true or false", where)


def _map(value: Any, inner: Any, where: str) -> None:
    _expect(value, dict, "an object", where)
    for key, item in value.items():
        _text(key, where)
        if item is None:
            raise InvalidConfig(f"{where}.{key} is null")
        check(item, inner, f"{where}.{key}")


def _fields(value: Any, shape: Fields, where: str) -> None:
    _expect(value, dict, "an object", where)
    prefix = where + "." if where else ""
    for key in shape.required:
        if value.get(key) is None:
            raise InvalidConfig(f"{prefix}{key} is missing")
    for key, inner in shape.known.items():
        if key in value:
            check(value[key], inner, prefix + key)


def _list(value: Any, inner: Any, where: str) -> None:
    _expect(value, list, "a list", where)
    for position, item in enumerate(value):
        if item is None:
            raise InvalidConfig(f"{where}[{position}] is null")
        if inner is str:  # lists of strings are long
            _text(item, where)
        else:
            check(item, inner, f"{where}[{position}]")


def _expect(value: Any, kind: type, name: str, where: str) -> None:
    if type(value) is not kind:
        raise InvalidConfig(f"{where or 'the configuration'} is {_short(value)}; it must be {name}")


def _text(value: Any, where: str) -> None:
    """A string that the kernel can be given: no NUL byte, no lone surrogates but those that stand for undecodable bytes."""
    if type(value) is not str:
        raise InvalidConfig(f"{where} is or holds {_short(value)}; it must be a string")
    if value.isascii():
        if "\0" in value:
            raise InvalidConfig(f"{where} holds a NUL byte")
        return
    try:
        data = value.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidConfig(f"{where} is not text that can be encoded: {error.reason}") from error
    if b"\0" in data:
        raise InvalidConfig(f"{where} holds a NUL byte")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
