"""Streams between web processes: a client's socket lands on one, the node's link is held by another (docs/adr/0004).

One websocket a stream, at /tunnel/v1 of the node port, so that TCP alone carries the back-pressure and no stream waits for
another. Both ends prove themselves: the server by the name that every node port carries under the nodes' root, the client by a
certificate whose fingerprint stands in the row of a live web process. A node's certificate opens no tunnel.

First frame (text): {"node", "target", "container", "args", "actor", "operation"}. Then from the holder of the link
    texts    {"type": "opened", "info"} or {"type": "refused", "error"},
             then at last {"type": "exit", "code", "error"} or {"type": "lost", "detail"}
    binaries [channel] + payload
and from the client's side
    texts    {"type": "resize", "rows", "cols"}, {"type": "eof"}
    binaries input
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import DatabaseError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from agent.protocol.codec import decode
from agent.protocol.errors import InvalidInput, RemoteError, WharfError
from agent.protocol.messages import MAX_DATA
from agent.protocol.wire import Data
from nodes import queries
from nodes.actions.joining import SERVER_NAME
from nodes.errors import NodeUnreachable
from nodes.link.hub import HUB
from nodes.link.streams import OPEN_TIMEOUT, Exit, Stream, StreamLost

log = logging.getLogger(__name__)

PATH = "/tunnel/v1"
FIRST_FRAME = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """The stream that is asked for. The asking process has redeemed the ticket and goes on asking for the right."""

    node: str
    target: str
    container: str
    args: Mapping[str, Any] = field(default_factory=dict)
    actor: str = ""
    operation: str = ""


async def open_stream(request: Request) -> Stream:
    """The stream, opened, on whichever web process holds the link. Raises `NodeUnreachable`, `StreamLost`, the node's refusal."""
    stream = await _here(request)
    if stream is not None:
        return stream
    for _ in range(2):  # the node may have gone to another web process just now
        peer = await HUB.rows(queries.web_of_node, request.node)
        if peer is None or peer.id == HUB.web_id:
            break
        remote = RemoteStream(peer, request)
        try:
            await remote.opened()
        except NodeUnreachable:
            await remote.close()
            continue
        except BaseException:
            await remote.close()
            raise
        return remote
    stream = await _here(request)
    if stream is None:
        raise NodeUnreachable("the node is not linked to this control plane now; try again when it is back")
    return stream


async def _here(request: Request) -> Stream | None:
    session = HUB.session(request.node)
    if session is None:
        return None
    stream = session.open_stream(
        request.target, request.container, args=request.args, actor=request.actor, operation=request.operation
    )
    try:
        await stream.opened()
    except BaseException:
        await stream.close()
        raise
    return stream


class RemoteStream:
    """A `Stream` on a link that another web process holds."""

    def __init__(self, peer: queries.WebPeer, request: Request) -> None:
        self.info: Mapping[str, Any] = {}
        self._peer = peer
        self._request = request
        self._socket: ClientConnection | None = None

    async def opened(self) -> None:
        if HUB.credentials is None:
            raise NodeUnreachable("this web process has just started; try again in a moment")
        host = f"[{self._peer.host}]" if ":" in self._peer.host else self._peer.host
        try:
            async with asyncio.timeout(OPEN_TIMEOUT + 1):
                self._socket = await connect(
                    f"wss://{host}:{self._peer.port}{PATH}",
                    ssl=HUB.credentials.context,
                    server_hostname=SERVER_NAME,
                    compression=None,
                    proxy=None,
                    max_queue=4,
                    close_timeout=1,
                )
                await self._socket.send(json.dumps(asdict(self._request)))
                self._answered(await self._socket.recv())
        except (OSError, TimeoutError, WebSocketException) as error:
            log.warning("web process %s is not reached: %s", self._peer, error)
            raise NodeUnreachable("the web process that holds the node's link is not reached; try again in a moment") from error

    def _answered(self, frame: str | bytes) -> None:
        message = parse(frame)
        if message.get("type") == "refused":
            error = RemoteError(message.get("error", {}))
            raise NodeUnreachable(error.detail) if error.code == NodeUnreachable.code else error
        if message.get("type") == "lost":
            raise StreamLost(str(message.get("detail")))
        self.info = message.get("info", {})

    @property
    def _connected(self) -> ClientConnection:
        if self._socket is None:
            raise StreamLost("the stream was not opened")
        return self._socket

    async def read(self) -> AsyncIterator[Data | Exit]:
        try:
            async for frame in self._connected:
                if isinstance(frame, bytes):
                    yield Data(0, frame[0], frame[1:])
                    continue
                message = parse(frame)
                if message.get("type") == "exit":
                    yield Exit(message.get("code"), str(message.get("error", "")))
                    return
                raise StreamLost(str(message.get("detail", "the stream was lost")))
        except ConnectionClosed:
            pass
        raise StreamLost("the web process that holds the node's link went away")

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            await self._send(data[start : start + MAX_DATA])

    async def end_input(self) -> None:
        await self._send('{"type": "eof"}')

    async def resize(self, rows: int, cols: int) -> None:
        await self._send(json.dumps({"type": "resize", "rows": rows, "cols": cols}))

    async def _send(self, frame: str | bytes) -> None:
        try:
            await self._connected.send(frame)
        except ConnectionClosed:
            pass  # the reader says what became of the stream

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()


async def serve(fingerprint: str, receive: Any, send: Any) -> None:
    """The end at the process that holds the link: one accepted websocket, until it or its stream has ended."""
    await receive()  # websocket.connect
    try:
        known = await HUB.rows(queries.is_web_process, fingerprint)
    except (DatabaseError, WharfError) as error:
        log.warning("a tunnel is refused: %s", error)
        known = False
    if not known:
        await send({"type": "websocket.close", "code": 4403, "reason": "not a web process of this control plane"})
        return
    await send({"type": "websocket.accept"})
    await _End(receive, send).serve()


class _End:
    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send

    async def serve(self) -> None:
        stream: Stream | None = None
        try:
            stream = await self._open()
            await self._text({"type": "opened", "info": dict(stream.info)})
            await self._relay(stream)
        except StreamLost as error:
            await self._text({"type": "lost", "detail": error.detail})
        except WharfError as error:
            await self._text({"type": "refused", "error": error.as_dict()})
        except _ClientGone:
            return
        finally:
            if stream is not None:
                await stream.close()
        await self._send({"type": "websocket.close", "code": 1000})

    async def _open(self) -> Stream:
        try:
            async with asyncio.timeout(FIRST_FRAME):
                frame = await self._next()
        except TimeoutError:
            raise InvalidInput("no request") from None
        stream = await _here(decode(Request, parse(frame)))
        if stream is None:
            raise NodeUnreachable("this web process does not hold the node's link")
        return stream

    async def _relay(self, stream: Stream) -> None:
        jobs = [
            asyncio.create_task(self._output(stream), name="tunnel-output"),
            asyncio.create_task(self._input(stream), name="tunnel-input"),
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _output(self, stream: Stream) -> None:
        async for item in stream.read():
            if isinstance(item, Exit):
                await self._text({"type": "exit", "code": item.code, "error": item.error})
                return
            await self._send({"type": "websocket.send", "bytes": bytes((item.channel,)) + item.payload})

    async def _input(self, stream: Stream) -> None:
        while True:
            frame = await self._next()
            if isinstance(frame, bytes):
                await stream.write(frame)
                continue
            message = parse(frame)
            if message.get("type") == "resize":
                await stream.resize(int(message["rows"]), int(message["cols"]))
            elif message.get("type") == "eof":
                await stream.end_input()

    async def _next(self) -> str | bytes:
        message = await self._receive()
        if message["type"] != "websocket.receive":
            raise _ClientGone
        text: str | None = message.get("text")
        data: bytes | None = message.get("bytes")
        return text if text is not None else data or b""

    async def _text(self, message: Mapping[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(message)})


class _ClientGone(Exception):
    """The asking process closed the tunnel: its client went away."""


def parse(frame: str | bytes) -> dict[str, Any]:
    """A text frame's JSON object. Raises `InvalidInput`."""
    try:
        value = json.loads(frame) if isinstance(frame, str) else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidInput("a JSON object is expected")
    return value
