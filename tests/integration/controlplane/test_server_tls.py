"""The `tls` extension in both scopes, other CAs, resumed sessions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from controlplane.server.app import Edge
from controlplane.server.tls import server_context
from tests.integration.controlplane.listening import Authority, connect, listening, read_response


async def describe(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the extension, over HTTP and over a websocket."""
    text = json.dumps(scope["extensions"].get("tls"))
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.close"})
        return
    body = text.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def optional(authority: Authority) -> Iterator[int]:
    certificate, key, _ = authority.issue("server")
    with listening(Edge(describe), server_context(certificate, key, client_roots=authority.pem)) as (_, port):
        yield port


def client(authority: Authority, leaf: tuple[str, str, bytes] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem)
    if leaf:
        context.load_cert_chain(leaf[0], leaf[1])
    return context


def get(port: int, context: ssl.SSLContext | None, **keywords: Any) -> Any:
    with connect(port, context, **keywords) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        return json.loads(read_response(sock)[1])


def fingerprint(tls: Any) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(tls["client_cert_chain"][0])).hexdigest()


def test_no_certificate_is_none(authority: Authority, optional: int) -> None:
    tls = get(optional, client(authority))
    assert tls["client_cert_name"] is None
    assert tls["client_cert_chain"] == []
    assert tls["tls_version"] == 0x0304
    assert tls["cipher_suite"] in {0x1301, 0x1302, 0x1303}
    assert tls["server_cert"] == "SERVER"


def test_a_good_certificate_is_shown_over_http(authority: Authority, optional: int) -> None:
    leaf = authority.issue("n1")
    tls = get(optional, client(authority, leaf))
    assert tls["client_cert_name"] == "CN=n1"
    assert fingerprint(tls) == hashlib.sha256(leaf[2]).hexdigest()


def test_a_good_certificate_is_shown_over_a_websocket(authority: Authority, optional: int) -> None:
    leaf = authority.issue("n1")

    async def ask() -> str:
        async with websockets.connect(f"wss://localhost:{optional}/", ssl=client(authority, leaf)) as socket:
            return str(await socket.recv())

    assert fingerprint(json.loads(asyncio.run(ask()))) == hashlib.sha256(leaf[2]).hexdigest()


def test_anothers_certificate_fails_the_handshake(authority: Authority, optional: int, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "theirs").issue("n1")
    with pytest.raises((ssl.SSLError, ConnectionError, json.JSONDecodeError)):
        get(optional, client(authority, stranger))


def test_a_resumed_session_still_shows_the_certificate(authority: Authority, optional: int) -> None:
    leaf = authority.issue("n1")
    context = client(authority, leaf)
    with connect(optional, context) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        read_response(sock)
        session = sock.session
    with connect(optional, context, session=session) as sock:
        assert sock.session_reused
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert fingerprint(json.loads(read_response(sock)[1])) == hashlib.sha256(leaf[2]).hexdigest()


def test_without_tls_there_is_no_extension() -> None:
    with listening(Edge(describe)) as (_, port):
        assert get(port, None) is None


@pytest.mark.parametrize("rate", [None, 100.0], ids=["plain accept", "throttled accept"])
def test_the_node_port_takes_none_without_a_certificate(authority: Authority, rate: float | None) -> None:
    certificate, key, _ = authority.issue("server")
    context = server_context(certificate, key, client_roots=authority.pem, require_client=True)
    with listening(Edge(describe), context, rate=rate) as (_, port):
        with pytest.raises((ssl.SSLError, ConnectionError, json.JSONDecodeError)):
            get(port, client(authority))
        assert get(port, client(authority, authority.issue("n1")))["client_cert_name"] == "CN=n1"
