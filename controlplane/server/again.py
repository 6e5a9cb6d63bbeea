"""The extension `wharf.again`: an application remembers what it was asked, and answers the same bytes at once the next time.

A client that reads many things over one connection sends the same header lines each time; only the request line changes. The
extension hands the application both as they came, already parsed the ordinary way. If the application finds that the header lines
hold nothing but who is asking, it leaves an answerer on the connection: called with the request line of each later request that
has exactly these header lines, before any parsing, it gives the answer or None, and None means the ordinary way. So nothing is
parsed by a second parser: bytes that were understood once are understood to mean the same. A request that comes in several
pieces, with others behind it, or while one is being answered, always goes the ordinary way.

What may be answered so is the application's business; registry.v2.again says when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

# Called in the event loop with a request line without its line end. The answer is that of a 200: header lines, an empty line and
# the body, as pieces that are sent one after the other. It must not block.
Answerer: TypeAlias = Callable[[bytes], tuple[bytes, ...] | None]


class Connection(Protocol):
    known: tuple[bytes, Answerer] | None


class Again:
    """What scope["extensions"]["wharf.again"] holds. `line` and `block` are the request line and the lines after it."""

    __slots__ = ("_connection", "block", "line")

    def __init__(self, connection: Connection, line: bytes, block: bytes) -> None:
        self._connection = connection
        self.line = line
        self.block = block

    @property
    def answerer(self) -> Answerer | None:
        """What this connection has for these header lines."""
        known = self._connection.known
        return known[1] if known is not None and known[0] == self.block else None

    def leave(self, answerer: Answerer) -> None:
        """Let `answerer` see the requests that come with these header lines. The one before it is forgotten."""
        self._connection.known = (self.block, answerer)


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """(request line, header lines with the empty line) when `data` is one whole GET or HEAD without a body; None otherwise."""
    if not data.startswith((b"GET /", b"HEAD /")) or data.find(b"\r\n\r\n") != len(data) - 4:
        return None
    line, _, block = data.partition(b"\r\n")
    return (line, block) if line.endswith(b" HTTP/1.1") else None
