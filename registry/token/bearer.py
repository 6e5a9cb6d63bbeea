"""Access tokens: ES256 JWTs that say what may be done in which repository (distribution's token specification)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt

from agent.protocol.errors import Unauthenticated
from registry.token import keys

ISSUER = "wharf-registry"
SERVICE = "wharf-registry"
TTL_SECONDS = 300
SLACK_SECONDS = 5


class TokenInvalid(Unauthenticated):
    code = "token_invalid"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says.

    `policy` is the policy version it was decided under, -1 when rights are not decided again. `scopes` are those of the personal
    token it was made with: they narrow its owner's rights wherever the owner's rights are asked again.
    """

    id: str
    subject: str
    name: str
    access: Mapping[str, frozenset[str]]
    catalog: bool
    policy: int
    expires_at: float
    scopes: frozenset[str] | None = None


def issue(
    subject: str,
    access: Iterable[Mapping[str, Any]],
    ttl: int = TTL_SECONDS,
    *,
    name: str = "",
    policy_version: int = -1,
    scopes: frozenset[str] | None = None,
) -> str:
    """A signed token for `subject` ("user/<id>", "node/<id>", "" = anonymous).

    `access` holds {"type": "repository", "name": "ns/x", "actions": ["pull"]} entries, already decided. `ttl` is 60 to 3,600
    seconds. With `policy_version` the decision is made anew once anybody's rights changed; without, it stands until it expires
    (nodes: the control plane itself decided what they need).
    """
    now = int(time.time())
    kid, key = keys.ring.signer()
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "aud": SERVICE,
        "exp": now + max(60, min(ttl, keys.MAX_TOKEN_SECONDS)),
        "nbf": now - SLACK_SECONDS,
        "iat": now,
        "jti": uuid.uuid4().hex,
        "name": name,
        "pv": policy_version,
        "scopes": None if scopes is None else sorted(scopes),
        "access": [{"type": item["type"], "name": item["name"], "actions": list(item["actions"])} for item in access],
    }
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid})


def verify(text: str) -> Claims:
    """The claims of a good token. Raises TokenInvalid."""
    claims = _verified(text)
    if claims.expires_at + SLACK_SECONDS < time.time():
        raise TokenInvalid("the token has expired; ask for a new one")
    return claims


@lru_cache(maxsize=4096)
def _verified(text: str) -> Claims:
    # Only good tokens are remembered: lru_cache keeps no exception. Expiry is checked at each use.
    try:
        kid = str(jwt.get_unverified_header(text).get("kid", ""))
        key = keys.ring.public(kid)
        if key is None:
            raise TokenInvalid("the token was signed by a key that is not known here; ask for a new one")
        data = jwt.decode(
            text,
            key,
            algorithms=["ES256"],
            audience=SERVICE,
            issuer=ISSUER,
            leeway=SLACK_SECONDS,
            options={"require": ["exp", "nbf", "iat", "jti", "sub", "aud", "iss"], "verify_sub": False},
        )
    except jwt.PyJWTError as error:
        raise TokenInvalid(f"the token is not valid: {error}") from error
    return _claims(data)


def _claims(data: dict[str, Any]) -> Claims:
    access: dict[str, frozenset[str]] = {}
    catalog = False
    for item in data.get("access") or []:
        if item.get("type") == "repository":
            access[item["name"]] = access.get(item["name"], frozenset()) | frozenset(item["actions"])
        elif item.get("type") == "registry" and item.get("name") == "catalog":
            catalog = bool(item["actions"])
    return Claims(
        id=str(data["jti"]),
        subject=str(data["sub"]),
        name=str(data.get("name", "")),
        access=access,
        catalog=catalog,
        policy=int(data.get("pv", -1)),
        expires_at=float(data["exp"]),
        scopes=None if data.get("scopes") is None else frozenset(data["scopes"]),
    )
