"""The client's side of the OCI distribution protocol: one repository of one registry.

Tokens come from the caller (`token_source`) or, as Docker's clients do it, from the challenge's realm with Basic credentials.
Sources: OCI distribution-spec 1.1; RFC 6750 (Bearer), RFC 9110 (challenges, ranges); distribution's token authentication pages.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpx

from agent.images.errors import ImageUnknown, RegistryDenied, RegistryUnauthenticated, RegistryUnavailable, RegistryUntrusted
from agent.protocol.errors import InvalidInput, Throttled, WharfError
from agent.protocol.oci import MAX_MANIFEST_BYTES

TokenSource = Callable[[str], Awaitable[str | None]]
ATTEMPTS: Final = 6
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 15.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 5
_PARAMETER: Final = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')
_MAX_BODY: Final = MAX_MANIFEST_BYTES + 1


class RegistryRefused(InvalidInput):
    """The registry answered with an error that no retry will change."""

    code = "registry_refused"


@dataclass(frozen=True, slots=True)
class RegistryEndpoint:
    """Where a registry answers and how we prove who we are.

    url: "https://host[:port]", or "http://…" where the caller trusts the path. ca_pem: the only authorities believed (None: the
    system's). token_source(scope) -> token or None, scope as "repository:name:pull,push". username, password: for a challenge.
    """

    url: str
    ca_pem: str | None = None
    token_source: TokenSource | None = field(default=None, repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    def verify(self) -> ssl.SSLContext | bool:
        if not self.url.startswith("https:"):
            return False
        context = ssl.create_default_context(cadata=self.ca_pem) if self.ca_pem else ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


async def pause(attempt: int, *, at_least: float = 0.0) -> None:
    """Back off before attempt number `attempt` + 1: exponential, jittered, bounded."""
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
    await asyncio.sleep(max(at_least, random.uniform(longest / 2, longest)))  # noqa: S311  # jitter, not a secret


class RegistryClient:
    """Requests to `/v2/<repository>/…`. Use as an async context manager."""

    def __init__(self, endpoint: RegistryEndpoint, repository: str, actions: str) -> None:
        self.endpoint = endpoint
        self.repository = repository
        self._scope = f"repository:{repository}:{actions}"
        self._authorization = ""
        self._http = httpx.AsyncClient(
            verify=endpoint.verify(),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(60.0, connect=15.0),
            headers={"User-Agent": "wharfinger-agent", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    def url(self, path: str) -> str:
        """`path` below this repository."""
        return f"{self.endpoint.url.rstrip('/')}/v2/{self.repository}/{path}"

    def location(self, response: httpx.Response) -> str:
        """The absolute URL of a Location header."""
        location = str(response.headers.get("location") or "")
        if not location:
            raise RegistryRefused(f"{response.request.method} {response.request.url.path}: the answer has no Location")
        return urljoin(str(response.request.url), location)

    async def request(
        self,
        method: str,
        url: str,
        *,
        expect: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> tuple[httpx.Response, bytes]:
        """One small exchange with retries: (response, body). Raises a `WharfError` unless the status is expected."""
        attempt = 0
        while True:
            try:
                async with self.stream(method, url, expect=expect, headers=headers, content=content) as response:
                    return response, await _bounded(response)
            except (httpx.TransportError, RegistryUnavailable, Throttled) as error:
                attempt += 1
                if attempt >= ATTEMPTS:
                    raise as_unavailable(error, self.endpoint.url) from error
                await pause(attempt, at_least=getattr(error, "retry_after", 0.0))

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        expect: tuple[int, ...],
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """One exchange without retries (but for a challenge), body unread. Raises `httpx.TransportError` or a `WharfError`."""
        response = await self._send(method, url, headers, content)
        try:
            if response.status_code == 401 and await self._authenticate(response) and not isinstance(content, AsyncIterator):
                await response.aclose()
                response = await self._send(method, url, headers, content)
            if response.status_code not in expect:
                raise await _refusal(response)
            yield response
        finally:
            await response.aclose()

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, content: bytes | AsyncIterator[bytes] | None
    ) -> httpx.Response:
        await self._first_token()
        for _ in range(_MAX_REDIRECTS):
            self._check_scheme(url)
            send = dict(headers or {})
            if self._authorization and _origin(url) == _origin(self.endpoint.url):
                send["Authorization"] = self._authorization  # other hosts (a redirect to object storage) never see it
            request = self._http.build_request(method, url, headers=send, content=content)
            try:
                response = await self._http.send(request, stream=True)
            except httpx.ConnectError as error:
                if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                    raise
                raise RegistryUntrusted(
                    f"registry {self.endpoint.url}: {error}. Configure the authority that signed it"
                ) from error
            if response.status_code not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            await response.aclose()
            url = self.location(response)
        raise RegistryRefused(f"more than {_MAX_REDIRECTS} redirects, the last to {url[:200]}")

    def _check_scheme(self, url: str) -> None:
        if self.endpoint.url.startswith("https:") and not url.startswith("https:"):
            raise RegistryRefused(f"the registry sends us from https to {url[:200]}: refused")

    async def _first_token(self) -> None:
        if not self._authorization and self.endpoint.token_source is not None:
            await self._token_from_source()

    async def _token_from_source(self) -> bool:
        source = self.endpoint.token_source
        token = await source(self._scope) if source else None
        fresh = f"Bearer {token}" if token else ""
        changed = fresh not in ("", self._authorization)
        self._authorization = fresh
        return changed

    async def _authenticate(self, response: httpx.Response) -> bool:
        """Answer a challenge; True when the request is worth repeating."""
        if self.endpoint.token_source is not None:
            return await self._token_from_source()
        scheme, _, rest = response.headers.get("www-authenticate", "").partition(" ")
        if scheme.lower() == "basic" and self.endpoint.username:
            fresh = _basic(self.endpoint)
        elif scheme.lower() == "bearer":
            fresh = f"Bearer {await self._token_from_realm(rest)}"
        else:
            return False
        changed = fresh != self._authorization
        self._authorization = fresh
        return changed

    async def _token_from_realm(self, challenge: str) -> str:
        parameters = {key.lower(): quoted or plain for key, quoted, plain in _PARAMETER.findall(challenge)}
        realm = parameters.get("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise RegistryRefused("the registry's challenge names no realm to fetch a token from")
        self._check_scheme(realm)
        query = {"scope": self._scope, "client_id": "wharfinger"}
        if parameters.get("service"):
            query["service"] = parameters["service"]
        headers = {"Authorization": _basic(self.endpoint)} if self.endpoint.username else {}
        async with self._http.stream("GET", realm, params=query, headers=headers) as response:
            if response.status_code != 200:
                raise await _refusal(response)
            data = json.loads(await _bounded(response))
        token = data.get("token") or data.get("access_token") if isinstance(data, dict) else None
        if not isinstance(token, str):
            raise RegistryRefused("the token service's answer holds no token")
        return token


async def _bounded(response: httpx.Response) -> bytes:
    """The body of an answer that has to be small, whatever the other side sends."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > _MAX_BODY:
            raise RegistryRefused(f"{response.request.url.path}: the answer has more than {_MAX_BODY} bytes")
    return bytes(body)


def as_unavailable(error: Exception, url: str) -> WharfError:
    """A transport error in words for the user; `WharfError`s stay what they are."""
    if isinstance(error, WharfError):
        return error
    reason = str(error) or type(error).__name__
    return RegistryUnavailable(f"registry {url} does not answer: {reason}", url=url)


def _basic(endpoint: RegistryEndpoint) -> str:
    return "Basic " + base64.b64encode(f"{endpoint.username}:{endpoint.password}".encode()).decode()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


async def _refusal(response: httpx.Response) -> WharfError:
    status, where = response.status_code, f"{response.request.method} {response.request.url.path}"
    detail = f"{where}: {status} {await _message(response)}".rstrip()
    if status == 401:
        return RegistryUnauthenticated(f"{detail}. Log in to the registry, or check the credentials")
    if status == 403:
        return RegistryDenied(f"{detail}. The account may not do this in that repository")
    if status == 404:
        return ImageUnknown(f"{detail}. It does not exist in the registry, or you may not see it")
    if status == 429:
        return Throttled(detail, retry_after=_seconds(response.headers.get("retry-after", "")))
    if status >= 500:
        return RegistryUnavailable(detail)
    return RegistryRefused(detail, status=status)


async def _message(response: httpx.Response) -> str:
    body = b""
    try:
        body = await _bounded(response)
        data: Any = json.loads(body)
        errors = data["errors"]
        return "; ".join(f"{item.get('code', '')} {item.get('message', '')}".strip() for item in errors[:5])
    except (ValueError, KeyError, TypeError, AttributeError, RegistryRefused, httpx.HTTPError, httpx.StreamError):
        return body[:200].decode("utf-8", "replace")


def _seconds(text: str) -> float:
    return min(float(text), 60.0) if text.isdigit() else 1.0
