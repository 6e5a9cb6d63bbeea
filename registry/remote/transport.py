"""httpx over connections that the guard has approved: the checked address is the one connected to, whatever DNS says next."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from registry.remote import guard
from registry.remote.errors import EgressRefused, RemoteAway

USER_AGENT = "wharfinger"
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0  # a transfer that does not move


@dataclass(frozen=True, slots=True)
class Tls:
    """How an endpoint proves itself: by `ca` (PEM; "" = the host's authorities), or with verify=False not at all."""

    verify: bool = True
    ca: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises EgressRefused for a CA that is none."""
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
        except (ssl.SSLError, ValueError):
            raise EgressRefused("the CA is no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _Stream(httpcore.NetworkStream):
    """A connection that no peer can keep open beyond `deadline` by sending a byte now and then."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: float | None) -> None:
        self._inner, self._deadline = inner, deadline

    def _left(self, timeout: float | None, error: type[Exception]) -> float | None:
        if self._deadline is None:
            return timeout
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise error("the whole request took too long")
        return left if timeout is None else min(timeout, left)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, resolver: guard.Resolver, deadline: float | None) -> None:
        self._resolver, self._deadline = resolver, deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = guard.resolve(guard.check_host("", host, port), self._resolver)
        failure: Exception | None = None
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            peer = str(stream.get_extra_info("server_addr")[0])
            if ipaddress.ip_address(peer) != ipaddress.ip_address(address):
                stream.close()
                raise EgressRefused(f"the connection to {address} ended at {peer}")
            return _Stream(stream, self._deadline)
        assert failure is not None  # noqa: S101  # resolve gives at least one address
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        raise EgressRefused("no request may go to a socket of this host")


class GuardedTransport(httpx.HTTPTransport):
    """`deadline`: seconds that everything together may take; None = only IDLE_SECONDS without progress end it."""

    def __init__(self, tls: Tls, resolver: guard.Resolver = guard.system_resolver, deadline: float | None = None) -> None:
        context = tls.context()
        super().__init__(verify=context, trust_env=False)
        self._pool.close()
        # httpx has no parameter for the network backend; its transport only hands requests to this pool (httpx 0.28, pinned).
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=20,
            max_keepalive_connections=10,
            keepalive_expiry=30.0,
            network_backend=_Backend(resolver, None if deadline is None else time.monotonic() + deadline),
        )


def http_client(tls: Tls, resolver: guard.Resolver = guard.system_resolver, deadline: float | None = None) -> httpx.Client:
    """No proxy of the environment, no .netrc, no cookies kept, no redirect followed: the caller checks each."""
    return httpx.Client(
        transport=GuardedTransport(tls, resolver, deadline),
        timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS),
        follow_redirects=False,
        trust_env=False,
        headers={"User-Agent": USER_AGENT},
    )


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns httpx's errors into RemoteAway with a sentence. `what` is where the request went."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise RemoteAway(f"{what} did not answer in time") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        text = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in text:
            raise RemoteAway(f"the certificate of {what} does not verify ({text}); give its CA, or skip the check") from error
        raise RemoteAway(f"{what} cannot be reached: {text}") from error


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is at most `limit` bytes of it; `seconds` from the first byte out to the last one in."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


def send_once(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    tls: Tls,
    deadline: float,
    limit: int,
    resolver: guard.Resolver = guard.system_resolver,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """POST, no redirect, no retry; `limit` bytes of the answer are read and the rest is not. Raises EgressRefused, RemoteAway."""
    target = guard.check_url(url)
    begin = clock()
    with explained(target.host), http_client(tls, resolver, deadline) as client:
        with client.stream("POST", url, content=body, headers={**headers, "Accept-Encoding": "identity"}) as response:
            kept = bytearray()
            for piece in response.iter_raw():
                kept += piece
                if len(kept) >= limit:
                    break
            return Answer(response.status_code, dict(response.headers), bytes(kept[:limit]), clock() - begin)
