"""The node port's ASGI application: the links of nodes at /link/v1, and tunnels between web processes at /tunnel/v1.

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
from agent.protocol.errors import Throttled, Unauthenticated, WharfError
from agent.protocol.wire import ProtocolViolation, Received, Wire
from nodes import queries
from nodes.actions import session as sessions
from nodes.errors import NodeRemoved, VersionMismatch
from nodes.link import tunnel
from nodes.link.hub import HUB, Parked
from nodes.link.session import LinkSession
from nodes.models import Node

log = logging.getLogger(__name__)

PATH = "/link/v1"
HELLO_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0  # seconds that a peer which no longer reads may hold up the end
TRY_AGAIN = 5.0
STRANGER_RETRY = 60.0  # a database that went back in time may know this certificate again later


async def application(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """ASGI 3. Anything but the two websockets is refused."""
    if scope["type"] == "websocket" and scope["path"] == PATH:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        await _Socket(scope, receive, send).serve()
    elif scope["type"] == "websocket" and scope["path"] == tunnel.PATH:
        await tunnel.serve(certificate_fingerprint(scope), receive, send)
    else:
        await _not_here(scope, send)


async def _not_here(scope: Mapping[str, Any], send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4404, "reason": "the link is at " + PATH})
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"this port serves the links of nodes only\n"})


class UnknownCertificate(Unauthenticated):
    code = "unknown_certificate"


class _Gone(Exception):
    """The socket ended before the link was up; there is nobody to tell."""


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
            session = await self._admit(node, hello, wire)
        except _Gone:
            return
        except WharfError as error:
            await self._refuse(wire, error)
            return
        except DatabaseError as error:
            log.warning("a node waits for the database: %s", error)
            await self._say(wire, m.Refused("unavailable", "the control plane's database is away", TRY_AGAIN))
            return
        await self._run(session)

    async def _greet(self, wire: Wire) -> tuple[Node, m.Hello]:
        node = await HUB.rows(queries.node_of_certificate, self._fingerprint)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                frame = await self._next()
        except TimeoutError:
            await self.close(4408, "no hello")
            raise _Gone from None
        if frame is None:
            raise _Gone
        (event,) = wire.receive(frame)
        if not isinstance(event, Received) or not isinstance(event.message, m.Hello):
            raise ProtocolViolation("hello expected")
        if node is None:
            raise UnknownCertificate("this certificate belongs to no node of this cluster: join with a new token")
        if m.VERSION not in event.message.versions:
            raise VersionMismatch(f"this control plane speaks version {m.VERSION} of the link; upgrade the agent")
        return node, event.message

    async def _admit(self, node: Node, hello: m.Hello, wire: Wire) -> LinkSession:
        """Go on with the session that the agent names, else begin one; the greeting is answered."""
        HUB.admit(node.pk)
        parked = HUB.unpark(node.pk, hello.session)
        if parked is not None:
            await parked.lost.wait()  # both are writes of one epoch: the loss, recorded later, would undo the return
            try:
                registration = await HUB.rows(sessions.resume, node.pk, hello.session, HUB.web_id, hello)
            except (DatabaseError, Throttled):
                HUB.park(parked)  # the next attempt may have more luck
                raise
            if registration is not None:
                parked.wire.connect()
                session = self._session(node, parked.wire)
                session.begin(hello, registration, hello.session, resumed=True)
                return session
        session_id = secrets.token_hex(16)
        grace = HUB.pace[1]
        registration = await HUB.rows(
            sessions.register, node.pk, hello, session_id, HUB.web_id, fingerprint=self._fingerprint, grace=grace
        )
        session = self._session(node, wire)
        session.begin(hello, registration, session_id, resumed=False)
        return session

    def _session(self, node: Node, wire: Wire) -> LinkSession:
        return LinkSession(HUB, node.pk, wire, send=self._frame, close=self.close)

    async def _run(self, session: LinkSession) -> None:
        HUB.enter(session)
        try:
            await session.run(self._next)
        finally:
            if HUB.leave(session):
                parked = Parked(session.node_id, session.wire)
                HUB.park(parked)
                try:
                    await self._lost(session.node_id, session.epoch)
                finally:
                    parked.lost.set()
            await self.close(1000, "")

    async def _lost(self, node_id: str, epoch: int) -> None:
        try:
            await HUB.rows(sessions.link_lost, node_id, epoch)
        except (DatabaseError, WharfError) as error:
            log.warning("node %s: the loss of its link is not recorded, its lease will run out: %s", node_id, error)

    async def _refuse(self, wire: Wire, error: WharfError) -> None:
        wait = TRY_AGAIN
        if isinstance(error, NodeRemoved | VersionMismatch):
            wait = -1.0
        elif isinstance(error, UnknownCertificate):
            wait = STRANGER_RETRY
        elif isinstance(error, Throttled):
            wait = error.retry_after
        await self._say(wire, m.Refused(error.code, error.detail, wait))

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
        if not self._open:
            return
        self._open = False
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except TimeoutError:
            log.info("a peer that no longer reads was not told that its link ended")


def certificate_fingerprint(scope: Mapping[str, Any]) -> str:
    """sha256 (hex) of the client certificate's DER; "" without one (ASGI tls extension, client_cert_chain)."""
    chain = (scope.get("extensions") or {}).get("tls", {}).get("client_cert_chain") or []
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain[0])).hexdigest() if chain else ""
