"""The node port's ASGI application: one websocket a node at /link/v1, known by its certificate alone.

Messages carry ids, but the TLS identity is the only subject: everything a session does is done as the node whose certificate
opened it, and that node's row, not the certificate, says what it may do.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import ssl
from collections.abc import Mapping
from typing import Any

from django.db import DatabaseError

from agent.protocol import messages as m
from agent.protocol.errors import WharfError
from agent.protocol.wire import ProtocolViolation, Received, Wire
from nodes import queries
from nodes.actions import session as sessions
from nodes.errors import NodeRemoved
from nodes.link.hub import HUB
from nodes.link.session import LinkSession
from nodes.models import Node

log = logging.getLogger(__name__)

PATH = "/link/v1"
HELLO_TIMEOUT = 10.0
TRY_AGAIN = 5.0


async def application(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """ASGI 3. Anything but the link's websocket is refused."""
    if scope["type"] != "websocket" or scope["path"] != PATH:
        await _not_here(scope, send)
        return
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    await _Socket(scope, receive, send).serve()


async def _not_here(scope: Mapping[str, Any], send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4404, "reason": "the link is at " + PATH})
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"this port serves the links of nodes only\n"})


class _Socket:
    """One accepted websocket, from greeting to end."""

    def __init__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        self._fingerprint = certificate_fingerprint(scope)
        self._receive = receive
        self._send = send
        self._open = True

    async def serve(self) -> None:
        wire = Wire(m.CONTROL)
        wire.connect()
        try:
            node, hello = await self._greet(wire)
        except WharfError as error:
            await self._refuse(wire, error)
            return
        except DatabaseError as error:
            log.warning("a node waits for the database: %s", error)
            await self._say(wire, m.Refused("unavailable", "the control plane's database is away", TRY_AGAIN))
            return
        if node is not None and hello is not None:
            await self._serve_node(node, hello, wire)

    async def _greet(self, wire: Wire) -> tuple[Node | None, m.Hello | None]:
        node = await HUB.rows(queries.node_of_certificate, self._fingerprint)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                frame = await self._next()
        except TimeoutError:
            await self.close(4408, "no hello")
            return None, None
        if frame is None:
            return None, None
        (event,) = wire.receive(frame)
        if not isinstance(event, Received) or not isinstance(event.message, m.Hello):
            raise ProtocolViolation("hello expected")
        if node is None:
            raise NodeRemoved("this certificate belongs to no node of this cluster: join with a new token")
        if m.VERSION not in event.message.versions:
            raise NodeRemoved(f"this control plane speaks version {m.VERSION} of the link; upgrade the agent")
        return node, event.message

    async def _serve_node(self, node: Node, hello: m.Hello, wire: Wire) -> None:
        parked = HUB.unpark(node.pk, hello.session)
        session_id = hello.session if parked else secrets.token_hex(16)
        try:
            registration = None
            if parked:
                registration = await HUB.rows(sessions.resume, node.pk, session_id, HUB.web_id, hello)
            if registration is None:
                parked, session_id = None, secrets.token_hex(16)
                registration = await HUB.rows(
                    sessions.register, node.pk, hello, session_id, HUB.web_id, fingerprint=self._fingerprint
                )
        except WharfError as error:
            await self._refuse(wire, error)
            return
        if parked is not None:
            parked.connect()
            wire = parked
        session = LinkSession(HUB, node.pk, wire, send=self._frame, close=self.close)
        session.begin(hello, registration, session_id, resumed=parked is not None)
        await HUB.enter(session)
        try:
            await session.run(self._next)
        finally:
            if HUB.leave(session):
                HUB.park(node.pk, wire)
                await self._lost(node.pk, registration.epoch)
            await self.close(1000, "")

    async def _lost(self, node_id: str, epoch: int) -> None:
        try:
            await HUB.rows(sessions.link_lost, node_id, epoch)
        except (DatabaseError, WharfError) as error:
            log.warning("node %s: the loss of its link is not recorded, its lease will run out: %s", node_id, error)

    async def _refuse(self, wire: Wire, error: WharfError) -> None:
        final = isinstance(error, NodeRemoved | ProtocolViolation)
        await self._say(wire, m.Refused(error.code, error.detail, -1.0 if final else TRY_AGAIN))

    async def _say(self, wire: Wire, refused: m.Refused) -> None:
        wire.send(refused)
        for frame in wire.frames():
            await self._frame(frame)
        await self.close(4403, refused.code)

    async def _next(self) -> str | bytes | None:
        """The next frame; None when the socket has ended."""
        message = await self._receive()
        if message["type"] != "websocket.receive":
            self._open = False
            return None
        text: str | None = message.get("text")
        data: bytes | None = message.get("bytes")
        return text if text is not None else data or b""

    async def _frame(self, frame: str | bytes) -> None:
        await self._send({"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame})

    async def close(self, code: int, reason: str) -> None:
        if self._open:
            self._open = False
            await self._send({"type": "websocket.close", "code": code, "reason": reason})


def certificate_fingerprint(scope: Mapping[str, Any]) -> str:
    """sha256 (hex) of the client certificate's DER; "" without one (ASGI tls extension, client_cert_chain)."""
    chain = (scope.get("extensions") or {}).get("tls", {}).get("client_cert_chain") or []
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain[0])).hexdigest() if chain else ""
