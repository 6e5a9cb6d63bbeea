"""Answers that are given again from memory: HEAD and GET of small blobs and of manifests, for callers with a bearer token.

The database stays the truth. Each answer, and each decision that a token may pull, is remembered with the version of the
database (registry.queries.freshness) that was read before it was found out, and is given again only while that is still the
version. So whatever anybody commits anywhere, a delete, a moved tag, a grant withdrawn, a collector's claim, is seen by the very
next request: it goes the ordinary way once and is remembered anew. Only the clock is asked besides: tokens expire, and a pusher's
HEAD has to touch the blob once in a while.

All of this runs in the event loop's thread and needs no lock.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from controlplane.server.again import Again
from registry.actions import pulled, pulls
from registry.queries import freshness
from registry.token import Claims
from registry.token.bearer import SLACK_SECONDS
from registry.v2.request import Request
from registry.v2.response import Response, head_of

MAX_BODY = 64 << 10
MAX_BYTES = 16 << 20  # of all bodies together
MAX_ANSWERS = 4096
# Header lines that say only who asks and what they would like: none of them changes an answer.
PLAIN = frozenset({"host", "user-agent", "accept", "accept-encoding", "accept-language", "authorization", "connection"})

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """Of the repository `name`; `pull`: (tag or digest, digest) of what counts as one.

    `pusher_until`: when a pusher's question has to touch the blob (time.time()).
    """

    version: Version
    name: str
    pull: tuple[str, str] | None
    pusher_until: float
    pieces: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class _Answers:
    """By request line, the least recently remembered forgotten first."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, Answer] = OrderedDict()
        self._bytes = 0
        self.get = self._found.get

    def put(self, line: bytes, answer: Answer) -> None:
        if (before := self._found.pop(line, None)) is not None:
            self._bytes -= before.size
        self._found[line] = answer
        self._bytes += answer.size
        while self._bytes > MAX_BYTES or len(self._found) > MAX_ANSWERS:
            self._bytes -= self._found.popitem(last=False)[1].size


answers = _Answers()


@dataclass(slots=True)
class Reader:
    """One token on one connection, and where it may pull and push as of `version`."""

    claims: Claims
    version: Version
    may: dict[str, bool] = field(default_factory=dict)  # repositories that it may pull: may it push there too?

    def __call__(self, line: bytes) -> tuple[bytes, ...] | None:
        answer = answers.get(line)
        if answer is None or answer.version != self.version or (pushes := self.may.get(answer.name)) is None:
            return None
        now = time.time()
        if self.claims.expires_at + SLACK_SECONDS < now or (pushes and answer.pusher_until < now):
            return None
        if freshness.version() != self.version:
            return None
        if answer.pull is not None:
            if pulls.due():  # the ordinary way writes them down
                return None
            pulls.count(answer.name, answer.pull[0], self.claims.name)
            pulled.note(answer.name, *answer.pull)
        return answer.pieces


def begin(request: Request) -> None:
    """Note the version before anything is read for this request, when its answer may be worth remembering."""
    extensions: Any = request.scope.get("extensions") or {}  # ours is not in asgiref's types
    again = extensions.get("wharf.again")
    if isinstance(again, Again):
        request.again, request.version = again, freshness.version()


def remember(request: Request, response: object) -> None:
    """Keep the answer, if it is one of those that are given again."""
    memo, again, version = request.memo, request.again, request.version
    if memo is None or again is None or version is None:
        return
    if not isinstance(response, Response) or response.status != 200 or len(response.body) > MAX_BODY or response.warnings:
        return
    if not request.headers.keys() <= PLAIN or request.headers.get("connection", "keep-alive").lower() != "keep-alive":
        return
    pieces = (head_of(response),) if request.method == "HEAD" else (head_of(response), response.body)
    answers.put(again.line, Answer(version, memo.name, memo.pull, memo.pusher_until, pieces))
    reader = again.answerer
    if not isinstance(reader, Reader) or reader.version != version:
        reader = Reader(memo.claims, version)
        again.leave(reader)
    reader.may[memo.name] = memo.pushes
