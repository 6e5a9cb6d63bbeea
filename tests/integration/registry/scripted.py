"""An HTTP server on loopback that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.integration.controlplane.listening import Authority


@dataclass
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Says:
    """`cut`: bytes of the body after which the connection breaks, although Content-Length promises all of it.

    `hold`: bytes of the body after which it waits for the event.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    hold: tuple[int, threading.Event] | None = None


@dataclass
class Scripted:
    answer: Callable[[Asked], Says]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def calls(self, method: str = "") -> list[str]:
        return [item.path for item in self.asked if not method or item.method == method]


@contextmanager
def scripted(answer: Callable[[Asked], Says], authority: Authority | None = None) -> Iterator[Scripted]:
    """`authority`: over TLS with a certificate of it, for 127.0.0.1."""
    server = Scripted(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _all(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0) or 0))
            asked = Asked(self.command, self.path, {key.lower(): value for key, value in self.headers.items()}, body)
            server.asked.append(asked)
            says = server.answer(asked)
            self.send_response(says.status)
            for name, value in says.headers.items():
                self.send_header(name, value)
            if says.status not in (204, 304):
                self.send_header("Content-Length", str(len(says.body)))
            self.end_headers()
            if self.command != "HEAD":
                sent = 0
                if says.hold is not None:
                    sent, event = says.hold
                    self.wfile.write(says.body[:sent])
                    assert event.wait(30)
                self.wfile.write(says.body[sent : says.cut])
            if says.cut is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _all  # noqa: N815  # http.server's names

        def log_message(self, format: str, *args: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True  # a client that keeps its connection open must not hold up the end of a test
    if authority is not None:
        import ssl

        certificate, key, _ = authority.issue("scripted")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server.url = f"{'https' if authority else 'http'}://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(10)
