"""Streams on a link, as the control plane's other rooms use them: open, read, write, resize, end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

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


class NodeStream:
    """One stream to one container. Made by `LinkSession.open_stream`; `close` it in every case."""

    def __init__(self, wire: Wire, flush: Callable[[], None], number: int) -> None:
        self.number = number
        self.info: Mapping[str, Any] = {}
        self._wire = wire
        self._flush = flush
        self._inbox: asyncio.Queue[Data | Exit | StreamLost] = asyncio.Queue()
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()

    # -- fed by the session ----------------------------------------------------------------------------------------------

    def deliver(self, item: Any) -> None:
        """A frame or message of this stream arrived."""
        if isinstance(item, Data):
            self._inbox.put_nowait(item)
        elif isinstance(item, m.StreamOpened):
            self.info = item.info
            self._settle(None)
        elif isinstance(item, m.StreamRefused):
            self._settle(RemoteError(item.error))
        elif isinstance(item, m.StreamExit):
            self._settle(None)
            self._inbox.put_nowait(Exit(item.code, item.error))
        elif isinstance(item, m.StreamReset):
            lost = StreamLost(item.reason or "the stream was lost")
            self._settle(lost)
            self._inbox.put_nowait(lost)
            self._writable.set()

    def writable(self) -> None:
        self._writable.set()

    def _settle(self, error: Exception | None) -> None:
        if self._opened.done():
            return
        if error is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(error)

    # -- used by relays --------------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        """Wait until the node has subscribed the pipes. Raises the node's refusal, or `StreamLost`."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._opened
        except TimeoutError:
            raise StreamLost("the node did not answer in time") from None

    async def read(self) -> AsyncIterator[Data | Exit]:
        """Data as it comes, then one `Exit`. Raises `StreamLost`. Window is given back when the next item is asked for."""
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
        """All of `data` to the process's stdin, as fast as the window allows."""
        while data:
            self._writable.clear()
            taken = self._wire.write(self.number, m.STDIN, data)
            self._flush()
            data = data[taken:]
            if data:
                await self._writable.wait()

    def end_input(self) -> None:
        self._send(m.StreamEof(self.number, m.STDIN))

    def resize(self, rows: int, cols: int) -> None:
        self._send(m.StreamResize(self.number, rows, cols))

    def close(self, reason: str = "the client went away") -> None:
        """Give the stream up; nothing when it has ended. The process goes on."""
        self._send(m.StreamReset(self.number, reason))

    def _send(self, message: Any) -> None:
        if self._wire.is_open(self.number):
            self._wire.send(message)
            self._flush()
