"""Streams on a link, as the control plane's other rooms use them: open, read, write, resize, end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.protocol import messages as m
from agent.protocol.errors import RemoteError, Unavailable
from agent.protocol.wire import Data, Wire

OPEN_TIMEOUT = 15.0


class StreamLost(Unavailable):
    """The link, the container's node or the agent's end of the stream went away: never a clean end."""

    code = "stream_lost"


@dataclass(frozen=True, slots=True)
class Exit:
    """The stream's clean end. `code` is None when nobody saw the exit."""

    code: int | None
    error: str = ""


class Stream(Protocol):
    """One stream to one container, wherever the link of its node is. `close` it in every case; it may be closed twice."""

    info: Mapping[str, Any]

    async def opened(self) -> None:
        """Wait until the node has subscribed the pipes. Raises the node's refusal, or `StreamLost`."""

    def read(self) -> AsyncIterator[Data | Exit]:
        """Data as it comes, then one `Exit`. Raises `StreamLost`. Window is given back when the next item is asked for."""

    async def write(self, data: bytes) -> None:
        """All of `data` to the process's stdin, as fast as the window allows."""

    async def end_input(self) -> None: ...

    async def resize(self, rows: int, cols: int) -> None: ...

    async def close(self) -> None:
        """Give the stream up; nothing when it has ended. The process goes on."""


class NodeStream:
    """A `Stream` on a link that this process holds. Made by `LinkSession.open_stream`; `forget` is called once at its end."""

    def __init__(self, wire: Wire, flush: Callable[[], None], number: int, forget: Callable[[int], None]) -> None:
        self.number = number
        self.info: Mapping[str, Any] = {}
        self._wire = wire
        self._flush = flush
        self._forget = forget
        self._inbox: asyncio.Queue[Data | Exit | StreamLost] = asyncio.Queue()  # bounded by the stream's window
        self._opened = asyncio.Event()
        self._failure: Exception | None = None
        self._writable = asyncio.Event()

    # -- fed by the session ----------------------------------------------------------------------------------------------

    def deliver(self, item: Any) -> None:
        """A frame or message of this stream arrived."""
        if isinstance(item, Data):
            self._inbox.put_nowait(item)
        elif isinstance(item, m.StreamOpened):
            self.info = item.info
            self._opened.set()
        elif isinstance(item, m.StreamRefused):
            self._end(RemoteError(item.error), StreamLost(str(item.error.get("detail", "the node gave the stream up"))))
        elif isinstance(item, m.StreamExit):
            self._end(None, Exit(item.code, item.error))
        elif isinstance(item, m.StreamReset):
            lost = StreamLost(item.reason or "the stream was lost")
            self._end(lost, lost)

    def _end(self, failure: Exception | None, last: Exit | StreamLost) -> None:
        """`failure` is for who waits for the opening, `last` for who reads."""
        if not self._opened.is_set():
            self._failure = failure
            self._opened.set()
        self._inbox.put_nowait(last)
        self._writable.set()

    def writable(self) -> None:
        self._writable.set()

    # -- used by relays --------------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._opened.wait()
        except TimeoutError:
            raise StreamLost("the node did not answer in time") from None
        if self._failure is not None:
            raise self._failure

    async def read(self) -> AsyncIterator[Data | Exit]:
        while True:
            item = await self._inbox.get()
            if isinstance(item, StreamLost):
                raise item
            yield item
            if isinstance(item, Exit):
                return
            self._wire.consumed(self.number, len(item.payload))
            self._flush()

    async def write(self, data: bytes) -> None:
        while data:
            self._writable.clear()
            taken = self._wire.write(self.number, m.STDIN, data)
            self._flush()
            data = data[taken:]
            if data:
                await self._writable.wait()

    async def end_input(self) -> None:
        self._send(m.StreamEof(self.number, m.STDIN))

    async def resize(self, rows: int, cols: int) -> None:
        self._send(m.StreamResize(self.number, rows, cols))

    async def close(self) -> None:
        self._send(m.StreamReset(self.number, "the client went away"))
        self._forget(self.number)

    def _send(self, message: Any) -> None:
        if self._wire.is_open(self.number):
            self._wire.send(message)
            self._flush()
