"""Listeners on uvloop in a thread, and throw-away CAs, for tests of the server."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controlplane.server.listener import Listener, bind, configure
from controlplane.server.throttle import TokenBucket


@dataclass
class Authority:
    """A CA with its directory of issued files."""

    directory: Path
    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.certificate = self._sign(self.subject, self.key.public_key(), ca=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, subject: x509.Name, public_key: Any, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, name: str) -> tuple[str, str, bytes]:
        """(certificate file, key file, DER of the certificate) of a new leaf."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), ca=False)
        cert_file = self.directory / f"{self.name}-{name}.crt"
        key_file = self.directory / f"{self.name}-{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return str(cert_file), str(key_file), certificate.public_bytes(serialization.Encoding.DER)


@contextlib.contextmanager
def listening(
    app: Any, context: ssl.SSLContext | None = None, *, rate: float | None = None, family: str = "127.0.0.1"
) -> Iterator[tuple[Listener, int]]:
    """(listener, port) of `app` on uvloop in a thread; `rate`: connections a second."""
    sock = bind(family, 0)
    port = sock.getsockname()[1]
    started = threading.Event()
    holder: list[Listener] = []
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bucket = TokenBucket(rate, 1, loop.time) if rate else None
        listener = Listener(configure(app, context=context, certificate="SERVER"), sock, bucket=bucket)
        holder.append(listener)
        loops.append(loop)
        task = loop.create_task(listener._serve())
        opened = loop.create_task(listener.open.wait())
        await asyncio.wait({task, opened}, return_when=asyncio.FIRST_COMPLETED)
        started.set()
        await task

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:  # noqa: BLE001  # handed to the test's thread below
            failures.append(error)
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(20), "the listener does not start"
    try:
        if failures:
            raise failures[0]
        yield holder[0], port
    finally:
        if holder and thread.is_alive():
            loops[0].call_soon_threadsafe(holder[0].leave)
        thread.join(20)
        assert not thread.is_alive(), "the listener does not end"
        if failures:
            raise failures[0]


def connect(port: int, context: ssl.SSLContext | None = None, **keywords: Any) -> socket.socket:
    """A client connection with a deadline of 20 s."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    return context.wrap_socket(plain, server_hostname="localhost", **keywords) if context else plain


def read_response(sock: socket.socket) -> tuple[bytes, bytes]:
    """(head, body) of one response with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return data, b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
    pieces = [body]
    have = len(body)
    while have < length:
        piece = sock.recv(1 << 20)
        if not piece:
            break
        pieces.append(piece)
        have += len(piece)
    return head, b"".join(pieces)
