"""Byte streams for browsers and command lines: one websocket at /ws/stream, joined to streams on the links of nodes.

First frame (text): {"ticket": …}. Then, from us: {"type": "opened"}, {"type": "source", "index", "name"}, {"type": "exit",
"code", "error"} or {"type": "error", …problem}; binary frames are [channel, source index] + payload. From the client: binary
frames of channel 0 are input; {"type": "resize", "rows", "cols"} and {"type": "eof"}.

The right is asked again every five seconds while a stream is open: a role that changes, an account or token that ends, cuts it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from django.db import DatabaseError

from agent.protocol import messages as m
from agent.protocol.errors import InvalidInput, NotFound, WharfError
from nodes import queries
from nodes.actions import tickets
from nodes.link import tunnel
from nodes.link.hub import HUB
from nodes.link.streams import Exit, Stream
from nodes.queries import StreamSource

log = logging.getLogger(__name__)

FIRST_FRAME = 10.0
RECHECK = 5.0
NEW_TASKS = 2.0
MAX_SOURCES = 255


class Relay:
    """One client socket. `serve` returns when it or its streams have ended."""

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send
        self._streams: dict[str, Stream] = {}
        self._ready = asyncio.Event()  # the one stream that takes input is open
        self._sending = asyncio.Lock()

    async def serve(self) -> None:
        try:
            grant = await self._redeem()
            if grant is None:
                return
            await self._relay(grant)
        except WharfError as error:
            await self._text({"type": "error", **error.as_dict()})
            await self._close(4403 if error.status in (401, 403) else 1011, error.code)
        except DatabaseError as error:
            log.warning("a stream ends: %s", error)
            await self._close(1013, "the database is away")
        finally:
            for stream in self._streams.values():
                await stream.close()

    async def _redeem(self) -> tickets.Grant | None:
        try:
            async with asyncio.timeout(FIRST_FRAME):
                message = await self._receive()
        except TimeoutError:
            await self._close(4408, "no ticket")
            return None
        if message["type"] != "websocket.receive":
            return None
        text = _object(message.get("text")).get("ticket")
        return await HUB.rows(tickets.redeem_ticket, str(text))

    async def _relay(self, grant: tickets.Grant) -> None:
        work = self._service_logs(grant) if grant.service else self._one(grant)
        jobs = [
            asyncio.create_task(work, name="relay-output"),
            asyncio.create_task(self._ignore_input() if grant.service else self._input(), name="relay-input"),
            asyncio.create_task(self._keep_checking(grant), name="relay-recheck"),
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    # -- output ----------------------------------------------------------------------------------------------------------

    async def _one(self, grant: tickets.Grant) -> None:
        sources = await HUB.rows(queries.stream_sources, grant.containers, "")
        if not sources:
            raise NotFound("the container is gone")
        stream = await self._open(grant, sources[0])
        self._ready.set()
        await self._text({"type": "opened", "info": dict(stream.info)})
        end = await self._pump(stream, 0)
        await self._text({"type": "exit", "code": end.code, "error": end.error})
        await self._close(1000, "")

    async def _service_logs(self, grant: tickets.Grant) -> None:
        """All tasks of the service; with `follow`, those that come later too."""
        await self._text({"type": "opened", "info": {}})
        follow = bool(grant.args.get("follow"))
        known: set[str] = set()
        pumps: set[asyncio.Task[None]] = set()
        try:
            while True:
                for source in await HUB.rows(queries.stream_sources, (), grant.service):
                    if source.container_id not in known and len(known) < MAX_SOURCES:
                        known.add(source.container_id)
                        pumps.add(asyncio.create_task(self._task_log(grant, source, len(known) - 1)))
                if not follow:
                    await asyncio.gather(*pumps)
                    break
                await asyncio.sleep(NEW_TASKS)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        await self._text({"type": "exit", "code": 0, "error": ""})
        await self._close(1000, "")

    async def _task_log(self, grant: tickets.Grant, source: StreamSource, index: int) -> None:
        await self._text({"type": "source", "index": index, "name": source.label})
        try:
            await self._pump(await self._open(grant, source), index)
        except WharfError as error:
            note = f"-- logs of {source.label}: {error.detail}\n".encode()
            await self._binary(m.STDERR, index, note)

    async def _open(self, grant: tickets.Grant, source: StreamSource) -> Stream:
        request = tunnel.Request(source.node_id, grant.target, source.container_id, grant.args, grant.actor.name, grant.operation)
        stream = self._streams[source.container_id] = await tunnel.open_stream(request)
        return stream

    async def _pump(self, stream: Stream, index: int) -> Exit:
        async for item in stream.read():
            if isinstance(item, Exit):
                return item
            await self._binary(item.channel, index, item.payload)
        raise AssertionError("a stream's reader ends with an Exit or raises")

    # -- input -----------------------------------------------------------------------------------------------------------

    async def _ignore_input(self) -> None:
        while (await self._receive())["type"] == "websocket.receive":
            pass

    async def _input(self) -> None:
        await self._ready.wait()  # what a client sends before that is not lost: it is not read yet
        (stream,) = self._streams.values()
        while True:
            message = await self._receive()
            if message["type"] != "websocket.receive":
                return
            data = message.get("bytes")
            if data is None:
                await self._control(stream, _object(message.get("text")))
            elif data[:1] == b"\0":
                await stream.write(data[2:])

    async def _control(self, stream: Stream, message: Mapping[str, Any]) -> None:
        kind = message.get("type")
        if kind == "resize":
            rows, cols = message.get("rows"), message.get("cols")
            if not (type(rows) is int and type(cols) is int and 0 < rows <= 1000 and 0 < cols <= 1000):
                raise InvalidInput("resize: rows and cols must be 1-1000")
            await stream.resize(rows, cols)
        elif kind == "eof":
            await stream.end_input()
        else:
            raise InvalidInput(f"unknown message {str(kind)[:40]!r}: there are resize and eof")

    async def _keep_checking(self, grant: tickets.Grant) -> None:
        while True:
            await asyncio.sleep(RECHECK)
            await HUB.rows(tickets.recheck, grant)

    # -- the socket ------------------------------------------------------------------------------------------------------

    async def _binary(self, channel: int, index: int, payload: bytes) -> None:
        async with self._sending:
            await self._send({"type": "websocket.send", "bytes": bytes((channel, index)) + payload})

    async def _text(self, message: Mapping[str, Any]) -> None:
        async with self._sending:
            await self._send({"type": "websocket.send", "text": json.dumps(message)})

    async def _close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason[:100]})


def _object(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text or "")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidInput("a JSON object is expected")
    return value


async def application(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """ASGI 3, websocket only. Authentication is the ticket; the caller of this app has checked the Origin."""
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    await Relay(receive, send).serve()
