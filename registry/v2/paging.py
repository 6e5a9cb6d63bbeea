"""`n` and `last` of lists."""

from __future__ import annotations

from agent.protocol.errors import InvalidInput
from registry.v2.request import Request


def page_of(request: Request, default: int, most: int) -> tuple[int, str]:
    """(size, exclusive start) of the page asked for. Raises InvalidInput for an `n` that is no number."""
    text = request.parameter("n")
    if text is None or text == "":
        size = default
    elif text.isascii() and text.isdigit():
        size = min(int(text), most)
    else:
        raise InvalidInput(f"n={text[:40]!r} is no page size: use a whole number of at least 0")
    return size, request.parameter("last") or ""
