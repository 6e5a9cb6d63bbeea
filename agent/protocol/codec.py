"""Plain data in and out of frozen dataclasses: what specs and messages share.

`decode` checks every field against its annotation and names the path of what is wrong ("ports[1].target: expected an integer").
Specs refuse unknown fields, so that a misspelt limit is never silently dropped; messages ignore them, so that an older end
survives a newer one (forward compatibility, golden messages in tests/unit/agent).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from agent.protocol.errors import InvalidInput

T = TypeVar("T")


class InvalidSpec(InvalidInput):
    """A field is missing, unknown or of the wrong shape. `extra.field` is its path."""

    code = "invalid_spec"


def encode(value: Any) -> Any:
    """Turn a dataclass (or list, dict, enum, scalar) into JSON-serialisable data; fields equal to their default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_fields(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _encode_fields(value: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if field.default is not dataclasses.MISSING and item == field.default:
            continue
        if field.default_factory is not dataclasses.MISSING and not item:
            continue
        result[field.name] = encode(item)
    return result


def decode(cls: type[T], data: Any, *, path: str = "", unknown: str = "refuse") -> T:
    """Build `cls` from plain data.

    `unknown` is "refuse" (specs) or "ignore" (messages). Raises `InvalidSpec` naming the first field at fault; errors raised by
    `cls.__post_init__` keep their own text and gain the path.
    """
    if not isinstance(data, Mapping):
        raise InvalidSpec(f"{path or cls.__name__}: expected an object, got {_kind(data)}", field=path)
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable; the stub's bound does not see it through T
    if unknown == "refuse":
        extra = sorted(set(data) - set(hints))
        if extra:
            raise InvalidSpec(
                f"{_join(path, extra[0])}: unknown field; known are {', '.join(sorted(hints))}",
                field=_join(path, extra[0]),
            )
    values = {name: _value(hint, data[name], _join(path, name), unknown) for name, hint in hints.items() if name in data}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # callers pass dataclasses
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise InvalidSpec(f"{_join(path, field.name)}: is required", field=_join(path, field.name))
    try:
        return cls(**values)
    except InvalidSpec as error:
        if path and not error.extra.get("field", "").startswith(path):
            field_path = _join(path, str(error.extra.get("field", "")))
            raise InvalidSpec(f"{path}: {error.detail}", field=field_path) from error
        raise


@lru_cache(maxsize=256)
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }.get(type(value), type(value).__name__)


def _value(hint: Any, value: Any, path: str, unknown: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return _union(hint, value, path, unknown)
    if origin is tuple:
        return _tuple(hint, value, path, unknown)
    if origin in (dict, Mapping) or origin is getattr(types, "MappingProxyType", None):
        return _mapping(hint, value, path, unknown)
    if isinstance(hint, type):
        return _scalar(hint, value, path, unknown)
    return value


def _union(hint: Any, value: Any, path: str, unknown: str) -> Any:
    options = typing.get_args(hint)
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    return _value(rest[0], value, path, unknown)


def _tuple(hint: Any, value: Any, path: str, unknown: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidSpec(f"{path}: expected a list, got {_kind(value)}", field=path)
    item = typing.get_args(hint)[0]
    return tuple(_value(item, element, f"{path}[{index}]", unknown) for index, element in enumerate(value))


def _mapping(hint: Any, value: Any, path: str, unknown: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidSpec(f"{path}: expected an object, got {_kind(value)}", field=path)
    item = typing.get_args(hint)[1]
    return {str(key): _value(item, element, f"{path}.{key}", unknown) for key, element in value.items()}


_EXPECTED = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}


def _scalar(hint: type[Any], value: Any, path: str, unknown: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, path=path, unknown=unknown)
    if issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            allowed = ", ".join(str(member.value) for member in hint if member.value != "")  # "": left to whoever reads it
            raise InvalidSpec(f"{path}: must be one of {allowed}", field=path) from None
    if hint is float and type(value) is int:
        return float(value)
    if hint in _EXPECTED and type(value) is not hint:
        raise InvalidSpec(f"{path}: expected {_EXPECTED[hint]}, got {_kind(value)}", field=path)
    return value
