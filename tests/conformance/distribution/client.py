"""A registry client that hides nothing: one call, one request; it only answers the challenge for a token."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    lines: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        """Every value of a header that may come in several lines or as a list."""
        return [part.strip() for key, value in self.lines if key == name.lower() for part in value.split(",")]

    def error_codes(self) -> list[str]:
        return [entry["code"] for entry in self.json()["errors"]]


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass
class Registry:
    """`base` is scheme://host:port; without `username` no credentials are ever sent."""

    base: str
    username: str = ""
    password: str = ""
    prefix: str = "conformance"
    tokens: dict[str, str] = field(default_factory=dict)

    def repository(self) -> str:
        """A name that nobody used before."""
        return f"{self.prefix}/{uuid.uuid4().hex[:16]}"

    def call(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        expect: int | tuple[int, ...] = (),
    ) -> Answer:
        """One request to a path or a Location. A list as body is sent in chunks. `expect`: the statuses that are right."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        answer = self._once(method, target, body, pairs, self.tokens.get(self._realm_key(method, target)))
        challenge = answer.headers.get("www-authenticate", "")
        if answer.status == 401 and self.username and challenge.lower().startswith("bearer"):
            token = self._token(challenge)
            self.tokens[self._realm_key(method, target)] = token
            answer = self._once(method, target, body, pairs, token)
        wanted = (expect,) if isinstance(expect, int) else expect
        assert not wanted or answer.status in wanted, f"{method} {target}: {answer.status}, not {wanted}: {answer.body[:500]!r}"
        if answer.status >= 400 and method != "HEAD":
            assert answer.json()["errors"], "every refusal has the OCI error shape"
        return answer

    def _realm_key(self, method: str, target: str) -> str:
        kind = "pull" if method in {"GET", "HEAD"} else method
        return f"{kind} {re.split('/(?:blobs|manifests|tags|referrers)/', urlsplit(target).path)[0]}"

    def _once(
        self, method: str, target: str, body: bytes | Iterable[bytes] | None, pairs: list[tuple[str, str]], token: str | None
    ) -> Answer:
        base = urlsplit(self.base)
        parts = urlsplit(target)
        connection = http.client.HTTPConnection(base.hostname or "", base.port, timeout=60)
        try:
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in pairs:
                connection.putheader(name, value)
            if token:
                connection.putheader("Authorization", f"Bearer {token}")
            data: Any = body
            if body is None:
                data = b""
            if isinstance(data, bytes):
                if method not in {"GET", "HEAD"} and not any(name.lower() == "content-length" for name, _ in pairs):
                    connection.putheader("Content-Length", str(len(data)))
                connection.endheaders(data or None)
            else:
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders(iter(data), encode_chunked=True)
            response = connection.getresponse()
            lines = [(name.lower(), value) for name, value in response.getheaders()]
            return Answer(response.status, dict(lines), lines, response.read())
        finally:
            connection.close()

    def _token(self, challenge: str) -> str:
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = [("service", fields["service"]), *(("scope", scope) for scope in [fields.get("scope", "")] if scope)]
        basic = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        answer = self._once(
            "GET", f"{fields['realm']}?{urlencode(query)}", None, [("Authorization", f"Basic {basic}")], token=None
        )
        assert answer.status == 200, answer.body
        return str(answer.json()["token"])

    # What most cases need, in one line.

    def push_blob(self, name: str, data: bytes, algorithm: str = "sha256") -> str:
        digest = digest_of(data, algorithm)
        location = self.start(name, algorithm)
        self.call("PUT", with_digest(location, digest), data, {"Content-Type": "application/octet-stream"}, expect=201)
        return digest

    def start(self, name: str, algorithm: str = "sha256") -> str:
        query = "" if algorithm == "sha256" else f"?digest-algorithm={algorithm}"
        return self.call("POST", f"/v2/{name}/blobs/uploads/{query}", expect=202).headers["location"]

    def push_manifest(self, name: str, target: str, raw: bytes, media_type: str) -> Answer:
        return self.call("PUT", f"/v2/{name}/manifests/{target}", raw, {"Content-Type": media_type}, expect=201)


def with_digest(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"
