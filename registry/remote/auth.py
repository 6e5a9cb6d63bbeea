"""Getting past a registry's 401: HTTP Basic, or a token from the service that its challenge names.

GET with Basic, as every registry's token service takes it; POST with grant_type=refresh_token where the secret is a refresh token
(user name "<token>", as Docker's clients store one). Credentials go to the registry's own origin and to the realm it names, never
to where it redirects.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

import httpx

from registry.remote.errors import RemoteBroken, RemoteRefused

REFRESH_USER = "<token>"
SLACK_SECONDS = 10.0
MIN_SECONDS = 60.0  # a token service that says nothing means this (distribution's token specification)
_CHALLENGE = re.compile(r"(\w+)=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,]+))")

Send = Callable[[str, str, Mapping[str, str], bytes | None], httpx.Response]  # method, URL, headers, form


@dataclass(frozen=True, slots=True)
class Challenge:
    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge:
    """Of a WWW-Authenticate header; the scheme is lower-case, "" when there is none that we speak."""
    scheme, _, rest = header.strip().partition(" ")
    fields = {match[1].lower(): (match[2] if match[2] is not None else match[3]) for match in _CHALLENGE.finditer(rest)}
    if scheme.lower() not in ("bearer", "basic"):
        return Challenge("")
    return Challenge(scheme.lower(), fields.get("realm", ""), fields.get("service", ""), fields.get("scope", ""))


@dataclass
class Authorizer:
    """`secure`: the registry speaks TLS, so a realm without it is refused."""

    username: str
    secret: str = field(repr=False)
    secure: bool
    send: Send = field(repr=False)
    _challenge: Challenge | None = None
    _tokens: dict[tuple[str, ...], tuple[str, float]] = field(default_factory=dict, repr=False)

    def header(self, scopes: Sequence[str]) -> dict[str, str]:
        """What to send with a request that needs `scopes`; nothing before the registry has asked for it."""
        if self._challenge is None:
            return {}
        if self._challenge.scheme == "basic":
            return {"Authorization": self._basic()} if self.username else {}
        key = tuple(sorted(scopes))
        token, until = self._tokens.get(key, ("", 0.0))
        if not token or until < time.monotonic():
            token, until = self._fetch(self._challenge, key)
            self._tokens[key] = (token, until)
        return {"Authorization": f"Bearer {token}"}

    def learn(self, response: httpx.Response, scopes: Sequence[str]) -> bool:
        """After a 401: is it worth asking again?"""
        challenge = parse_challenge(response.headers.get("www-authenticate", ""))
        known = self._challenge
        self._tokens.pop(tuple(sorted(scopes)), None)
        self._challenge = challenge if challenge.scheme else known
        return challenge.scheme == "bearer" or (challenge.scheme == "basic" and bool(self.username))

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode("ascii")

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> tuple[str, float]:
        realm = urlsplit(challenge.realm)
        if self.secure and realm.scheme != "https":
            raise RemoteBroken(f"the registry speaks TLS, but its token service {challenge.realm[:200]!r} does not")
        response = self._post(challenge, scopes) if self.username == REFRESH_USER else self._get(challenge, scopes)
        if response.status_code in (400, 401, 403):
            raise RemoteRefused("the registry's token service refused the credentials: check user name and password or token")
        if response.status_code != 200:
            raise RemoteBroken(f"the registry's token service answered {response.status_code}")
        try:
            data = response.json()
            token = data.get("token") or data.get("access_token")
            seconds = float(data.get("expires_in") or MIN_SECONDS)
        except (ValueError, AttributeError, TypeError):
            token, seconds = None, 0.0
        if not isinstance(token, str) or not token or any(ord(char) <= 0x20 or ord(char) >= 0x7F for char in token):
            raise RemoteBroken("the registry's token service answered without a token")
        return token, time.monotonic() + max(seconds - SLACK_SECONDS, 1.0)

    def _get(self, challenge: Challenge, scopes: tuple[str, ...]) -> httpx.Response:
        query = [("service", challenge.service)] if challenge.service else []
        query += [("scope", scope) for scope in scopes]
        headers = {}
        if self.username:
            query.append(("account", self.username))
            headers["Authorization"] = self._basic()
        joint = "&" if urlsplit(challenge.realm).query else "?"
        return self.send("GET", f"{challenge.realm}{joint}{urlencode(query)}", headers, None)

    def _post(self, challenge: Challenge, scopes: tuple[str, ...]) -> httpx.Response:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": self.secret,
            "service": challenge.service,
            "client_id": "wharfinger",
            "scope": " ".join(scopes),
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.send("POST", challenge.realm, headers, urlencode(form).encode())
