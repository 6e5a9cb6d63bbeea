"""Questions asked over the link: pull tokens and certificates, each answered once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from agent.protocol import messages as m
from agent.protocol.errors import RemoteError, Unavailable

ANSWER_TIMEOUT = 15.0


class NoAnswer(Unavailable):
    code = "no_answer"


class Questions:
    """`ask` sends a request message and waits for the reply that carries its request_id."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._open: dict[str, asyncio.Future[Any]] = {}

    async def pull_token(self, repository: str) -> str:
        """A pull token of the cluster's registry for one repository. Raises `RemoteError` as the control plane refused it."""
        reply: m.TokenReply = await self._ask(lambda request_id: m.TokenRequest(request_id, repository))
        return reply.token

    async def certificate(self, csr: str) -> m.CertificateReply:
        reply: m.CertificateReply = await self._ask(lambda request_id: m.CertificateRequest(request_id, csr))
        return reply

    async def _ask(self, make: Callable[[str], Any]) -> Any:
        request_id = secrets.token_hex(8)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[request_id] = future
        try:
            self._send(make(request_id))
            async with asyncio.timeout(ANSWER_TIMEOUT):
                reply = await future
        except TimeoutError:
            raise NoAnswer("the control plane did not answer in time; it is asked again later") from None
        finally:
            self._open.pop(request_id, None)
        if reply.error:
            raise RemoteError(reply.error)
        return reply

    def answered(self, reply: m.TokenReply | m.CertificateReply) -> None:
        future = self._open.get(reply.request_id)
        if future and not future.done():
            future.set_result(reply)

    def link_lost(self) -> None:
        """Nobody will answer what was asked on a link that is gone."""
        for future in self._open.values():
            if not future.done():
                future.set_exception(NoAnswer("the link to the control plane was lost; it is asked again later"))
