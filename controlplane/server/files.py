"""A file's bytes onto a connection: sendfile on plain TCP, a read loop over TLS.

uvloop has no `loop.sendfile`, and asyncio's falls to 91 MB/s over TLS, so both ways are ours. The socket stays non-blocking and
the event loop waits for it, so a slow reader holds no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

CHUNK = 1 << 20  # bytes a read over TLS
BURST = 16 << 20  # bytes a turn of the sendfile thread
STALL = 60.0  # seconds a reader may take nothing before it is dropped

_pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="sendfile")


class Gone(ConnectionError):
    """The client went away, or stopped reading for STALL seconds."""


class Closing(Protocol):
    """What `send_plain` wants to know of the connection."""

    @property
    def disconnected(self) -> bool: ...


async def send_plain(
    transport: asyncio.Transport, flow: FlowControl, state: Closing, lost: asyncio.Event, file: int, offset: int, count: int
) -> None:
    """Put `count` bytes of the open file descriptor `file` from `offset` on the socket of `transport`. Raises Gone.

    `lost` is set when the transport's connection is lost. What the transport still buffers (the headers) goes out first.
    """
    await _drain(transport, flow, state)
    # A duplicate: the transport may close its own descriptor meanwhile, and the number would then be somebody else's.
    out = os.dup(transport.get_extra_info("socket").fileno())
    try:
        end = offset + count
        while offset < end:
            if state.disconnected:
                raise Gone("the client closed the connection")
            sent, blocked = await _turn(out, file, offset, min(BURST, end - offset))
            offset += sent
            if blocked:
                await _writable(out, lost)
    finally:
        os.close(out)


async def _drain(transport: asyncio.Transport, flow: FlowControl, state: Closing) -> None:
    transport.set_write_buffer_limits(high=0)
    try:
        while transport.get_write_buffer_size() and not state.disconnected:
            await flow.drain()
            await asyncio.sleep(0)
    finally:
        transport.set_write_buffer_limits()


async def _turn(out: int, file: int, offset: int, count: int) -> tuple[int, bool]:
    """One turn in a thread. It is never abandoned: the descriptors may only be closed once the thread is done with them."""
    turn = asyncio.get_running_loop().run_in_executor(_pool, _burst, out, file, offset, count)
    try:
        return await asyncio.shield(turn)
    except asyncio.CancelledError:
        with contextlib.suppress(Gone, OSError):
            await turn
        raise


def _burst(out: int, file: int, offset: int, count: int) -> tuple[int, bool]:
    """In a thread, for the file's pages may have to come from disk. Returns bytes sent and whether the socket is full."""
    sent = 0
    waiter = select.poll()
    waiter.register(out, select.POLLOUT)
    while sent < count:
        try:
            done = os.sendfile(out, file, offset + sent, count - sent)
        except BlockingIOError:
            if not waiter.poll(20):  # a quick reader frees room at once: cheaper than a turn of the loop
                return sent, True
            continue
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone("the client closed the connection") from error
        if done == 0:
            raise OSError("the file became shorter while it was sent")
        sent += done
    return sent, False


async def _writable(out: int, lost: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(out, wake)
    lost_wait = loop.create_task(lost.wait())
    try:
        waiting: set[asyncio.Future[Any]] = {ready, lost_wait}
        done, _ = await asyncio.wait(waiting, timeout=STALL, return_when=asyncio.FIRST_COMPLETED)
        if ready not in done:
            raise Gone("the client stopped reading")
    finally:
        lost_wait.cancel()
        loop.remove_writer(out)


async def read(file: int, offset: int, count: int) -> bytes:
    """`count` bytes (at most CHUNK) at `offset`, read in a thread. Raises OSError when the file ends earlier."""
    data = await asyncio.get_running_loop().run_in_executor(_pool, os.pread, file, min(CHUNK, count), offset)
    if not data:
        raise OSError("the file became shorter while it was sent")
    return data
