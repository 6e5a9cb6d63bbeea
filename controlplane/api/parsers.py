"""JSON bodies, strictly: UTF-8, no duplicate keys, no NaN, no text that cannot be stored, 32 levels, 2 MiB."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from rest_framework.parsers import JSONParser

from agent.protocol.errors import InvalidInput, TooLarge
from agent.protocol.jsontext import unstorable

MAX_DEPTH = 32


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InvalidInput(f"The key {key!r} stands twice in one JSON object: readers would disagree about its value.")
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise InvalidInput(f"{name} is no JSON value.")


def depth(value: Any) -> int:
    """Levels of nesting: 0 for a scalar. Walks without recursion."""
    deepest, stack = 0, [(value, 0)]
    while stack:
        item, level = stack.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level + 1)
            stack.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def parse(data: bytes) -> Any:
    """The value of a JSON text. Raises InvalidInput saying what is wrong and where."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The body is not UTF-8 (byte {error.start}).") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except (RecursionError, ValueError) as error:
        raise InvalidInput(f"The body cannot be read: {type(error).__name__}.") from None
    if depth(value) > MAX_DEPTH:
        raise InvalidInput(f"The body is nested deeper than {MAX_DEPTH} levels.")
    if reason := unstorable(text, value):
        raise InvalidInput(f"The body holds {reason}.")
    return value


class StrictJSONParser(JSONParser):
    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        data = stream.read(limit + 1)
        if len(data) > limit:
            raise TooLarge(f"The body is larger than {limit} bytes.", limit=limit)
        return parse(data)
