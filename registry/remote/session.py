"""Requests to one registry: guarded, authorised, retried; redirects followed one by one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import httpx

from registry.remote import guard
from registry.remote.auth import Authorizer
from registry.remote.errors import RemoteAway, RemoteBroken, RemoteBusy, RemoteRefused, RemoteUnknown
from registry.remote.pace import Wait
from registry.remote.transport import Tls, explained, http_client

ATTEMPTS = 4
BACKOFF = 1.0  # seconds before the second attempt, doubled each time
MAX_WAIT = 60.0  # a Retry-After beyond it is for the caller's own schedule
REDIRECTS = 5
ERROR_BYTES = 8 << 10
_PASSING = frozenset({429, 500, 502, 503, 504})
_REDIRECT = frozenset({301, 302, 303, 307, 308})

Body = Callable[[], bytes | Iterable[bytes]] | None  # made anew for every attempt


@dataclass(frozen=True, slots=True)
class Remote:
    """Another registry: "https://host[:port]", and who we are there ("" = nobody)."""

    url: str
    username: str = ""
    secret: str = field(default="", repr=False)
    tls: Tls = field(default_factory=Tls)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class Session:
    """`wait` sleeps between attempts and may raise to end the work. Not for several threads at once."""

    def __init__(
        self,
        remote: Remote,
        *,
        wait: Wait = time.sleep,
        resolver: guard.Resolver = guard.system_resolver,
        attempts: int = ATTEMPTS,
        deadline: float | None = None,
    ) -> None:
        guard.check_url(remote.url)
        self.remote = remote
        self.base = remote.url.rstrip("/")
        self._wait, self._attempts = wait, attempts
        self._client = http_client(remote.tls, resolver, deadline)
        self._auth = Authorizer(remote.username, remote.secret, self.base.startswith("https:"), self._token_call)

    def close(self) -> None:
        self._client.close()

    def url(self, location: str) -> str:
        """An absolute URL of a path or a Location. A registry behind a proxy that ends TLS often names http: ours stays."""
        url = urljoin(self.base + "/", location)
        ours, theirs = urlsplit(self.base), urlsplit(url)
        return theirs._replace(scheme=ours.scheme).geturl() if theirs.netloc == ours.netloc else url

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        location: str,
        scopes: Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        good: Sequence[int] = (200,),
        attempts: int | None = None,
    ) -> Iterator[httpx.Response]:
        """An answer whose status is in `good`, its body unread.

        Raises RemoteUnknown (404), RemoteRefused, RemoteBusy, RemoteAway; errors while the body is read are the reader's
        (`explained`).
        """
        response = self._persist(method, self.url(location), scopes, headers or {}, body, good, attempts or self._attempts)
        try:
            yield response
        finally:
            response.close()

    def _persist(
        self,
        method: str,
        url: str,
        scopes: Sequence[str],
        headers: Mapping[str, str],
        body: Body,
        good: Sequence[int],
        attempts: int,
    ) -> httpx.Response:
        for attempt in range(1, attempts + 1):
            last = attempt == attempts
            try:
                response = self._authorised(method, url, scopes, headers, body)
            except RemoteAway:
                if last:
                    raise
                self._wait(BACKOFF * 2 ** (attempt - 1))
                continue
            if response.status_code in good:
                return response
            pause = retry_after(response)
            if last or response.status_code not in _PASSING or (pause or 0) > MAX_WAIT:
                self._refuse(method, url, response)
            response.close()
            self._wait(BACKOFF * 2 ** (attempt - 1) if pause is None else pause)
        raise RemoteAway(f"{self.remote.host} did not answer")  # attempts is at least 1

    def _authorised(self, method: str, url: str, scopes: Sequence[str], headers: Mapping[str, str], body: Body) -> httpx.Response:
        for again in (True, False):
            response = self._redirected(method, url, {**headers, **self._credentials(url, scopes)}, body)
            if response.status_code != 401 or not again or not self._auth.learn(response, scopes):
                return response
            response.close()
        raise AssertionError("unreachable")  # the second round always returns

    def _credentials(self, url: str, scopes: Sequence[str]) -> Mapping[str, str]:
        return self._auth.header(scopes) if _origin(url) == _origin(self.base) else {}

    def _redirected(self, method: str, url: str, headers: Mapping[str, str], body: Body) -> httpx.Response:
        sent = dict(headers)
        for _ in range(REDIRECTS):
            response = self._send(method, url, sent, body)
            if response.status_code not in _REDIRECT or method not in ("GET", "HEAD"):
                return response
            location = response.headers.get("location", "")
            response.close()
            following = urljoin(url, location)
            if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
                raise RemoteBroken(f"{self.remote.host} redirects from TLS to {following[:200]!r}")
            if _origin(following) != _origin(url):
                sent.pop("Authorization", None)
            url = following
        raise RemoteBroken(f"{self.remote.host} redirects more than {REDIRECTS} times")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body) -> httpx.Response:
        target = guard.check_url(url)
        content = body() if body is not None else None
        with explained(target.host):
            request = self._client.build_request(method, url, headers={"Accept-Encoding": "identity", **headers}, content=content)
            return self._client.send(request, stream=True)

    def _token_call(self, method: str, url: str, headers: Mapping[str, str], form: bytes | None) -> httpx.Response:
        response = self._send(method, url, headers, None if form is None else lambda: form)
        try:
            if response.status_code in _PASSING:
                self._refuse(method, url, response)
            with explained(urlsplit(url).netloc):
                body = read_all(response, 1 << 20)
            return httpx.Response(response.status_code, headers=response.headers, content=body)
        finally:
            response.close()

    def _refuse(self, method: str, url: str, response: httpx.Response) -> None:
        """Raises what a status means."""
        status = response.status_code
        text = "" if method == "HEAD" else _sentence(response)
        response.close()
        host, path = self.remote.host, urlsplit(url).path
        where = f"{host} answered {status} to {method} {path}{f': {text}' if text else ''}"
        if status == 404:
            raise RemoteUnknown(where)
        if status == 429:
            raise RemoteBusy(where, retry_after=retry_after(response) or MAX_WAIT)
        if status >= 500:
            raise RemoteAway(where)
        if status in (401, 403):
            who = f"the user {self.remote.username}" if self.remote.username else "callers without a login"
            raise RemoteRefused(f"{where}. It does not let {who} do this", status=status)
        raise RemoteRefused(where, status=status)


def read_all(response: httpx.Response, limit: int) -> bytes:
    """The whole body. Raises RemoteBroken beyond `limit` bytes."""
    kept = bytearray()
    for piece in response.iter_raw():
        kept += piece
        if len(kept) > limit:
            raise RemoteBroken(f"{response.url.host} answered with more than {limit} bytes")
    return bytes(kept)


def retry_after(response: httpx.Response) -> float | None:
    """Seconds; a date counts from the answer's own clock (RFC 9110, 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        now = parsedate_to_datetime(response.headers["date"])
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


def _origin(url: str) -> tuple[str, str, int]:
    target = guard.check_url(url)
    return target.scheme, target.host, target.port


def _sentence(response: httpx.Response) -> str:
    """What the other side said, at most 300 characters of one line."""
    try:
        raw = b"".join(_first(response.iter_raw(), ERROR_BYTES))
        data = httpx.Response(200, content=raw).json()
        first = data["errors"][0]
        text = f"{first.get('code', '')} {first.get('message', '')}"
    except (httpx.HTTPError, ValueError, LookupError, AttributeError, TypeError):
        return ""  # its status must do
    return " ".join(text.split())[:300]


def _first(pieces: Iterator[bytes], limit: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        limit -= len(piece)
        if limit <= 0:
            return
