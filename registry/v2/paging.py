"""`n` and `last` of lists."""

from __future__ import annotations

from collections.abc import Mapping

from agent.protocol.errors import InvalidInput
from registry.v2.request import Request
from registry.v2.response import next_link


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


def next_page(request: Request, parameters: Mapping[str, str]) -> str:
    """A Link header to the next page of what `request` asked for, of the same registry."""
    return next_link(request.path, {**parameters, **({"ns": request.scoped.host} if request.scoped else {})})
