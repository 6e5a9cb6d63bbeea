"""Pushes of small blobs, the way most blobs of an image and all of an artifact come: POST, one PATCH, PUT.

They take the same steps as every upload (registry.v2.uploads), but each step of all requests that arrive together is one turn of
a thread: judged under one policy version, in one transaction, made durable by one sync. A session's bytes are kept in memory
besides its file, so that PUT need not read them. Whatever is not as it was remembered goes the ordinary way: every function here
returns None then, with nothing done.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.protocol.errors import InvalidInput, WharfError
from agent.protocol.oci import Digest
from registry.actions import small
from registry.actions.small import Append, Close, Open, Opened, Step
from registry.queries import policy
from registry.storage import open_store
from registry.storage.store import SmallBlob
from registry.v2.auth import Caller, Credentials, admit
from registry.v2.groups import Group
from registry.v2.request import Request
from registry.v2.threads import writes

SMALL = 64 << 10  # bytes of a body that is taken this way
MAX_BYTES = 8 << 20  # of all sessions together
MAX_SESSIONS = 4096


@dataclass(frozen=True, slots=True)
class Session:
    """An upload as this process left it. Its row is the truth: every step names the epoch it builds on."""

    repository_id: str
    algorithm: str
    epoch: int = 0
    data: bytes = b""


class _Sessions:
    """The least recently used forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._bytes = 0

    def put(self, key: str, session: Session) -> None:
        self.take(key)
        self._known[key] = session
        self._bytes += len(session.data)
        while self._bytes > MAX_BYTES or len(self._known) > MAX_SESSIONS:
            self._bytes -= len(self._known.popitem(last=False)[1].data)

    def take(self, key: str) -> Session | None:
        """Whoever takes it puts it back, or the ordinary way goes on with it."""
        session = self._known.pop(key, None)
        if session is not None:
            self._bytes -= len(session.data)
        return session


sessions = _Sessions()
_TOO_LONG = InvalidInput("the body is longer than its Content-Length")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A step with who asks for it; `make` completes it with the pusher's name."""

    credentials: Credentials
    name: str
    make: Callable[[str], Step]


def _judge_and_take(asked: Sequence[_Asked]) -> list[Any]:
    """One turn. Each request is judged as of a moment after it came, for its turn begins later."""
    version = policy.version()
    results: list[Any] = [None] * len(asked)
    steps: list[tuple[int, Step]] = []
    for number, item in enumerate(asked):
        try:
            steps.append((number, item.make(_pusher(admit(item.credentials, item.name, "pull", "push", version=version)))))
        except WharfError as error:
            results[number] = error
    taken = small.take([step for _, step in steps], open_store(), version) if steps else []
    for (number, _), result in zip(steps, taken, strict=True):
        results[number] = result
    return results


def _pusher(caller: Caller) -> str:
    return caller.claims.name if caller.claims is not None else caller.actor.name


_turns: Group[_Asked, Any] = Group(_judge_and_take, writes)


def fits() -> bool:
    """Is the store one that stores many small blobs for the price of one?"""
    return hasattr(open_store(), "put_all")


async def open_session(credentials: Credentials, name: str, algorithm: str) -> str | None:
    """POST: the id of a new session; None when the repository is new, too."""
    if not fits():
        return None
    opened: Opened | None = await _turns.do(_Asked(credentials, name, lambda pusher: Open(name, algorithm, pusher)))
    if opened is None:
        return None
    sessions.put(opened.session, Session(opened.repository_id, algorithm))
    return opened.session


async def append(request: Request, credentials: Credentials, name: str, key: str, first: int | None) -> int | None:
    """PATCH of a small body to an empty session: where the upload ends then."""
    session = sessions.take(key)
    if session is None or session.data or first or not 0 < (request.length or 0) <= SMALL:
        return None
    data = await request.body(SMALL, _TOO_LONG)
    step = Append(name, key, session.algorithm, session.epoch, data)
    if await _turns.do(_Asked(credentials, name, lambda _: step)) is None:
        request.unread(data)
        return None
    sessions.put(key, Session(session.repository_id, session.algorithm, session.epoch + 1, data))
    return len(data)


async def close(
    request: Request, credentials: Credentials, name: str, key: str, digest: Digest, first: int | None
) -> bool | None:
    """PUT that ends a small session, with or without a body of its own: True once the blob is stored and linked."""
    session, length = sessions.take(key), request.length
    if session is None or length is None or length + len(session.data) > SMALL or first not in {None, len(session.data)}:
        return None
    body = await request.body(SMALL, _TOO_LONG)
    blob = SmallBlob(digest, session.data + body, key)
    if Digest.of(blob.data, digest.algorithm) == digest and await _close(credentials, name, session, blob):
        return True
    request.unread(body)
    return None


async def store(credentials: Credentials, name: str, repository_id: str, digest: Digest, data: bytes) -> bool | None:
    """POST of a whole blob, its digest checked: True once it is stored and linked."""
    if not fits():
        return None
    return await _close(credentials, name, Session(repository_id, digest.algorithm), SmallBlob(digest, data))


async def _close(credentials: Credentials, name: str, session: Session, blob: SmallBlob) -> bool | None:
    def step(pusher: str) -> Step:
        return Close(session.repository_id, pusher, blob, len(session.data), session.epoch)

    done: bool | None = await _turns.do(_Asked(credentials, name, step))
    return done
