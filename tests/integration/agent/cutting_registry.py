"""A small HTTPS registry that behaves badly on purpose: it cuts connections at random bytes, challenges, lies about ranges."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import random
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(directory: Path) -> tuple[Path, str]:
    """A key and self-signed certificate for 127.0.0.1: (file with both, the certificate's PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test registry")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = directory / "tls.pem"
    path.write_bytes(private + pem)
    return path, pem.decode()


class CuttingRegistry(ThreadingHTTPServer):
    """`files`: path -> (content type, bytes). Counters tell what the client asked for."""

    daemon_threads = True

    def __init__(self, pem: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.files: dict[str, tuple[str, bytes]] = {}
        self.random = random.Random(7)
        self.cuts = 0  # connections still to be cut
        self.cut_at: tuple[int, int] = (0, 200_000)
        self.credentials = ""  # "user:password" the token service wants
        self.ranges: list[str] = []
        self.served = 0  # body bytes sent
        self.tokens = 0
        self.ignore_range = False
        self.unavailable = 0  # answers of 503 still to give
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are part of the play."""


class _Handler(BaseHTTPRequestHandler):
    server: CuttingRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # the base class's name
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            self._token()
            return
        if self.server.credentials and self.headers.get("Authorization") != "Bearer secret":
            challenge = f'Bearer realm="{self.server.url}/token",service="test",scope="repository:x:pull"'
            self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": challenge})
            return
        with self.server.lock:
            busy = self.server.unavailable > 0
            self.server.unavailable -= busy
        if busy:
            self._answer(503, b"busy", {})
            return
        found = self.server.files.get(self.path)
        if found is None:
            self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}', {})
            return
        self._file(*found)

    def _token(self) -> None:
        wanted = "Basic " + base64.b64encode(self.server.credentials.encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self._answer(401, b"{}", {})
            return
        self.server.tokens += 1
        self._answer(200, json.dumps({"token": "secret"}).encode(), {})

    def _file(self, content_type: str, data: bytes) -> None:
        headers = {"Content-Type": content_type}
        status, start = 200, 0
        wanted = self.headers.get("Range")
        if wanted and not self.server.ignore_range:
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._answer(status, data[start:], headers, cuttable="/blobs/" in self.path)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, cuttable: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with self.server.lock:
            cut = cuttable and self.server.cuts > 0
            self.server.cuts -= cut
            length = self.server.random.randint(*self.server.cut_at) if cut else len(body)
        self.wfile.write(body[:length])
        self.wfile.flush()
        with self.server.lock:
            self.server.served += min(length, len(body)) if cuttable else 0
        if cut and length < len(body):
            self.close_connection = True
            self.connection.close()


@contextmanager
def cutting_registry(directory: Path) -> Iterator[tuple[CuttingRegistry, str]]:
    path, pem = certificate(directory)
    server = CuttingRegistry(path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server, pem
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
