"""Who is asking and whether they may: one synchronous call at the head of every handler's turn in a row thread.

Credentials are a bearer token of the token service, a personal token or a robot's secret as bearer, or HTTP Basic with one of
these or a password.
What each lack answers, as Docker's and containers/image's clients expect it:

    no credentials              401 with the scope they need
    token without the action    401 insufficient_scope: the client asks the token service once more, then gives up
    Basic, repository visible   403 DENIED
    Basic, repository not       404 NAME_UNKNOWN: its existence is none of their business

Decisions are cached by (credential, repository) under the policy version (registry.queries.policy), so that the hot path of a
token costs the version's query and no grants.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from agent.protocol.errors import Denied, Unauthenticated
from agent.protocol.oci import check_name
from controlplane.api.actor import ANONYMOUS, Actor, actor_of_user
from controlplane.users.credentials import authenticate_bearer
from controlplane.users.models import User
from registry import token
from registry.actions import robot_login
from registry.actions.robot_login import authenticate_basic
from registry.errors import RepositoryUnknown
from registry.queries import access, policy, robots, standing
from registry.token import Claims
from registry.v2.errors import Challenge
from registry.v2.request import Memo, Request

BASIC_SECONDS = 60.0  # a password is checked at most once a minute: argon2 costs a tenth of a second
CACHE_ENTRIES = 8192

K = TypeVar("K")
V = TypeVar("V")


class _Cache(Generic[K, V]):
    """A dictionary that forgets its least recently used entries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        return None

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > CACHE_ENTRIES:
                self._entries.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What came with the request, not yet judged."""

    authorization: str
    address: str

    @classmethod
    def of(cls, request: Request) -> Credentials:
        return cls(request.headers.get("authorization", ""), request.address)


@dataclass(frozen=True)
class Caller:
    """A known (or anonymous) caller. `key` names the credential in caches."""

    key: str
    version: int  # of the policy, when the request came
    claims: Claims | None = None
    known: Actor | None = None

    @cached_property
    def actor(self) -> Actor:
        return self.known or _actor_of_claims(self.claims) or ANONYMOUS

    @property
    def name(self) -> str:
        """For counters: costs no query."""
        return self.known.name if self.known else self.claims.name if self.claims else "anonymous"

    @property
    def presented(self) -> bool:
        return self.claims is not None or (self.known is not None and self.known.kind != "anonymous")

    def actions(self, name: str) -> frozenset[str]:
        """Those of pull, push, delete that this caller has in repository `name`."""
        cached = _decisions.get((self.key, name))
        if cached is not None and cached[0] == self.version:
            return cached[1]
        decided = self._decide(name)
        _decisions.put((self.key, name), (self.version, decided))
        return decided

    def memo(self, name: str, *, pull: tuple[str, str] | None = None, pusher_until: float = float("inf")) -> Memo | None:
        """What an answer to this caller stands on; None when it may not be given again without asking."""
        if self.claims is None or self.claims.subject.startswith("robot/"):  # a robot's end is asked for each time
            return None
        return Memo(self.claims, name, "push" in self.actions(name), pull, pusher_until)

    def _decide(self, name: str) -> frozenset[str]:
        if self.claims is None:
            return access.allowed_actions(self.actor, name)
        granted = self.claims.access.get(name, frozenset())
        if self.claims.policy in {-1, self.version} or not granted:
            return granted
        # Somebody's rights changed since the token was made: what it says holds only as far as it would be said again.
        return granted & access.allowed_actions(self.actor, name, granted)


_decisions: _Cache[tuple[str, str], tuple[int, frozenset[str]]] = _Cache()
_passwords: _Cache[str, tuple[int, float, Actor]] = _Cache()
_PEPPER = secrets.token_bytes(32)


def authenticate(credentials: Credentials, version: int | None = None) -> Caller:
    """Raises Unauthenticated for bad credentials; none at all is the anonymous caller.

    `version`: of the policy, when the caller of this function asked for it after the request had come.
    """
    if version is None:
        version = policy.version()
    scheme, _, text = credentials.authorization.partition(" ")
    if not scheme:
        return Caller("anonymous", version, known=ANONYMOUS)
    if scheme.lower() == "bearer":
        return _bearer(text.strip(), credentials.address, version)
    if scheme.lower() == "basic":
        actor = basic(credentials, version)
        return Caller(f"{actor.kind}:{actor.id}:{_scope_key(actor)}", version, known=actor)
    raise Unauthenticated(f"the authentication scheme {scheme[:20]!r} is not known here; use Bearer or Basic")


def basic(credentials: Credentials, version: int) -> Actor:
    """The actor of HTTP Basic: a password, or a personal token as password. Raises Unauthenticated, Throttled."""
    key = hashlib.sha256(_PEPPER + credentials.address.encode() + b"\0" + credentials.authorization.encode()).hexdigest()
    known = _passwords.get(key)
    if known is not None and known[0] == version and known[1] > time.monotonic():
        _check_robot(subject_of(known[2]), credentials.address, version)
        return known[2]
    username, secret = _split_basic(credentials.authorization)
    actor = authenticate_basic(username, secret, address=credentials.address)
    if actor is None:
        raise Unauthenticated("the user name or the password (or token) is wrong; log in again")
    _passwords.put(key, (version, time.monotonic() + BASIC_SECONDS, actor))
    return actor


def _split_basic(header: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(header.partition(" ")[2].strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Unauthenticated("the Basic credentials are not base64 of user:password in UTF-8") from error
    username, _, secret = text.partition(":")
    return username, secret


def _bearer(text: str, address: str, version: int) -> Caller:
    if text.startswith("wharf_"):
        actor = authenticate_bearer(text, address=address)
        if actor is None:
            raise Unauthenticated("the personal token is unknown, expired, revoked, or not for this address")
        return Caller(f"{actor.kind}:{actor.id}:{_scope_key(actor)}", version, known=actor)
    if text.startswith(robot_login.PREFIX):
        robot = robot_login.authenticate_bearer(text, address=address)
        if robot is None:
            raise Unauthenticated("the robot's secret is unknown, expired, disabled, or not for this address")
        return Caller(f"robot:{robot.id}", version, known=robot)
    claims = token.verify(text)
    _check_robot(claims.subject, address, version)
    return Caller(f"jwt:{claims.id}", version, claims=claims)


def subject_of(actor: Actor) -> str:
    """The subject of a token: "user/<id>"; of a robot also which secret it was made with; "" of nobody."""
    if actor.kind == "anonymous":
        return ""
    return f"robot/{actor.id}/{actor.token_id}" if actor.kind == "robot" else f"{actor.kind}/{actor.id}"


def _check_robot(subject: str, address: str, version: int) -> None:
    """What a robot got or was remembered for earlier is worth nothing once it expired or was withdrawn, nor elsewhere."""
    if subject.startswith("robot/"):
        _, identifier, generation = subject.split("/", 2)
        if not robots.admitted(identifier, generation, address, version):
            raise Unauthenticated("the robot is expired, disabled, removed, or not for this address, or has a new secret")


def _scope_key(actor: Actor) -> str:
    return "*" if actor.scopes is None else ",".join(sorted(actor.scopes))


def _actor_of_claims(claims: Claims | None) -> Actor | None:
    if claims is None:
        return None
    kind, _, identifier = claims.subject.partition("/")
    if kind == "user":
        user = User.objects.filter(pk=identifier, is_active=True).first()
        return None if user is None else actor_of_user(user, scopes=claims.scopes)
    if kind == "robot":
        return robots.actor_of(identifier.partition("/")[0])
    if kind == "node":
        return Actor("node", identifier, claims.name or identifier)
    return None


def admit(credentials: Credentials, name: str, *needed: str, version: int | None = None) -> Caller:
    """The caller, who has all of `needed` in repository `name`.

    Raises Challenge, Denied, RepositoryUnknown, NameInvalid, and RegistryReadOnly for all but pulls.
    """
    check_name(name)
    caller = authenticate(credentials, version)
    actions = caller.actions(name)
    if actions.issuperset(needed):
        if needed != ("pull",):
            standing.refuse_writes()
        return caller
    scope = f"repository:{name}:{','.join(dict.fromkeys(['pull', *needed]))}"
    if not caller.presented:
        raise Challenge(f"{name} needs a login, or does not exist", scope)
    if caller.claims is not None:
        raise Challenge(f"the token does not allow {', '.join(needed)} in {name}", scope, insufficient=True)
    if "pull" not in actions:
        raise RepositoryUnknown(f"there is no repository {name}, or you may not see it")
    missing = ", ".join(access.ACTIONS[action] for action in needed if action not in actions)
    raise Denied(f"you may see {name}, but you lack {missing} there; ask its owner for a grant", operation=missing)
