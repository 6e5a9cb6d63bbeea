"""JSON through the interpreter's C scanner and encoder, without the `json` package (it imports re and enum: 1.4 MB here)."""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

from agent.protocol.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class InvalidJson(InvalidInput):
    """The text is not one JSON value."""

    code = "invalid_json"


def _finite(text: str) -> float:
    """Not NaN and Infinity, which are not JSON; and no number that would become one."""
    value = float(text)
    if value - value != 0:
        raise ValueError(f"the number {text}")
    return value


class _Rules:
    """What make_scanner reads its options from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_finite)
    parse_int = int
    parse_constant = staticmethod(_finite)  # NaN, Infinity

    memo: dict[str, str] = {}


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not plain data")


_scan = make_scanner(_Rules())  # type: ignore[arg-type]  # typeshed asks for a JSONDecoder; the C code reads six attributes
_chunks = make_encoder(None, _unknown, encode_basestring_ascii, None, ":", ",", False, False, False)
_SPACE = " \t\r\n"

quote = encode_basestring_ascii  # one string as a JSON literal; lone surrogates stay \udcXX


def dumps(value: Any) -> bytes:
    """Compact ASCII JSON. Raises TypeError for what is not plain data, ValueError for NaN."""
    return "".join(_chunks(value, 0)).encode()


def loads(data: bytes) -> Any:
    """The one value in `data` (UTF-8). Raises InvalidJson."""
    try:
        text = data.decode().strip(_SPACE)
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise InvalidJson(f"not JSON at character {error.value}: send one JSON object") from None
    except (ValueError, RecursionError, SystemError) as error:
        # SystemError: 3.11's scanner looks for json.decoder's exception, finds no such module, and fails without saying why
        reason = "broken or unfinished" if isinstance(error, SystemError) else str(error)
        raise InvalidJson(f"not JSON: {reason}; send one JSON object") from None
    if end != len(text):
        raise InvalidJson(f"not JSON: text after the value, at character {end}")
    return value
