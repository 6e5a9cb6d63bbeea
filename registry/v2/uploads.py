"""Uploads: POST starts one (or mounts, or stores a whole blob), PATCH appends, PUT closes, GET asks how far, DELETE cancels.

The order is always: judge and claim (a short transaction) before the first read of the body; then bytes, in batches of 1 MiB,
each hashed and written by one call in a file thread before the next batch is read, so that a slow disk slows the client and not
our memory; then the file's commit; then one short transaction. No transaction is open while bytes move.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from agent.protocol.errors import InvalidInput, PreconditionFailed
from agent.protocol.oci import Digest, DigestInvalid
from controlplane.api.ids import new_id
from registry.actions import blobs, quotas, uploads
from registry.actions.repositories import ensure_repository
from registry.actions.uploads import Claim
from registry.errors import QuotaExceeded, RangeInvalid, UploadUnknown
from registry.queries import content
from registry.storage import open_store
from registry.storage.hashing import ALGORITHMS
from registry.storage.store import DigestMismatch, StoreFull, UploadBusy, UploadWriter
from registry.v2 import small
from registry.v2.auth import Caller, Credentials, admit
from registry.v2.ranges import chunk
from registry.v2.request import BATCH, Request
from registry.v2.response import Response
from registry.v2.threads import files, rows, writes


class ClaimLost(PreconditionFailed):
    """Another request took the upload over while this one stood still."""

    code = "upload_taken_over"


def _location(name: str, session: str) -> str:
    return f"/v2/{name}/blobs/uploads/{session}"


def _progress(name: str, session: str, offset: int) -> dict[str, str]:
    # "0-0" also for an empty upload: the spec has no way to say "nothing" (end-4a).
    return {"location": _location(name, session), "range": f"0-{max(0, offset - 1)}", "docker-upload-uuid": session}


def _stored(name: str, digest: Digest) -> Response:
    return Response(201, {"location": f"/v2/{name}/blobs/{digest}", "docker-content-digest": str(digest)})


async def post(request: Request, name: str) -> Response:
    credentials = Credentials.of(request)
    if text := request.parameter("mount"):
        mounted = Digest.parse(text)
        if await writes(_mount, credentials, name, mounted, request.parameter("from") or ""):
            return _stored(name, mounted)
    elif text := request.parameter("digest"):
        return await _whole(request, credentials, name, Digest.parse(text))
    algorithm = request.parameter("digest-algorithm") or "sha256"
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(f"digest algorithm {algorithm[:40]!r} is not supported; use {' or '.join(ALGORITHMS)}")
    session = await small.open_session(credentials, name, algorithm)
    if session is None:
        session = await writes(_open, credentials, name, algorithm)
    return Response(202, _progress(name, session, 0))


def _admit(credentials: Credentials, name: str) -> Caller:
    return admit(credentials, name, "pull", "push")


def _mount(credentials: Credentials, name: str, digest: Digest, source: str) -> bool:
    caller = _admit(credentials, name)
    return blobs.mount(caller.actor, ensure_repository(caller.actor, name), digest, source)


def _open(credentials: Credentials, name: str, algorithm: str) -> str:
    return uploads.open_upload(_admit(credentials, name).actor, name, algorithm).pk


async def _whole(request: Request, credentials: Credentials, name: str, digest: Digest) -> Response:
    """POST ?digest=: the whole blob in one request, without a session's row."""
    repository, pusher = await writes(_target, credentials, name, request.length or 0)
    store = open_store()
    if (request.length or BATCH) <= small.SMALL:
        data = await request.body(small.SMALL, InvalidInput("the body is longer than its Content-Length"))
        stored = await writes(_adopt_checked, repository, digest, data, pusher)
        if not stored and not await small.store(credentials, name, repository, digest, data):
            await files(store.put, digest, data)
            await writes(uploads.finish, store, repository, digest, len(data), pusher)
        return _stored(name, digest)
    held = await writes(uploads.reserve_whole, repository, request.length or 0, pusher)
    session = held or new_id()
    writer = await files(store.writer, session, 0, digest.algorithm, None)
    try:
        async for batch in request.batches():
            await files(writer.write, batch)
        size = writer.offset
        await files(store.commit, session, writer, digest)
        await writes(uploads.finish, store, repository, digest, size, pusher, held)
    except BaseException:
        await asyncio.shield(files(_drop, writer, session))
        if held:
            await asyncio.shield(writes(uploads.forget, held))
        raise
    return _stored(name, digest)


def _target(credentials: Credentials, name: str, length: int) -> tuple[str, str]:
    caller = _admit(credentials, name)
    repository = ensure_repository(caller.actor, name).pk
    quotas.admit(repository, length)
    return repository, caller.actor.name


def _adopt_checked(repository: str, digest: Digest, data: bytes, pusher: str) -> bool:
    # Possession is proved by the bytes, never by the digest alone.
    if Digest.of(data, digest.algorithm) != digest:
        raise DigestMismatch(f"the {len(data)} bytes sent do not hash to {digest}")
    return uploads.adopt(repository, digest, len(data), pusher)


def _drop(writer: UploadWriter, session: str) -> None:
    writer.close()
    open_store().discard(session)


async def patch(request: Request, name: str, session: str) -> Response:
    first, credentials = _chunk_start(request), Credentials.of(request)
    async with _given_up_when_full(session):
        end = await small.append(request, credentials, name, session, first)
    if end is not None:
        return Response(202, _progress(name, session, end))
    held = await writes(_claim, credentials, name, session, first, "", request.length or 0)
    async with _given_up_when_full(session):
        if 0 < (request.length or 0) <= small.SMALL:
            return Response(202, _progress(name, session, await _append_small(request, held, name)))
        writer = await _open_writer(held, name)
        try:
            await _append(request, held, writer)
        finally:
            # Also when the client vanished: its whole batches count, and any process goes on from them.
            await asyncio.shield(_release(held, writer))
    return Response(202, _progress(name, session, writer.offset))


async def put(request: Request, name: str, session: str) -> Response:
    text = request.parameter("digest")
    if text is None:
        raise DigestInvalid("the digest parameter is missing: PUT closes an upload by naming what it must be")
    digest = Digest.parse(text)
    first, credentials = _chunk_start(request), Credentials.of(request)
    async with _given_up_when_full(session):
        if await small.close(request, credentials, name, session, digest, first):
            return _stored(name, digest)
    held = await writes(_claim, credentials, name, session, first, digest.algorithm, request.length or 0)
    async with _given_up_when_full(session):
        writer = await _open_writer(held, name)
        committed = False
        try:
            await _append(request, held, writer)
            committed = await _commit(held, writer, digest)
        finally:
            if not committed:
                await asyncio.shield(_release(held, writer))
    return _stored(name, digest)


@contextlib.asynccontextmanager
async def _given_up_when_full(session: str) -> AsyncIterator[None]:
    """What arrived would keep the disk or the quota full until the upload expires, and the pushes of everybody out."""
    try:
        yield
    except (StoreFull, QuotaExceeded):
        await asyncio.shield(_give_up(session))
        raise


async def _give_up(session: str) -> None:
    await writes(uploads.forget, session)
    await files(open_store().discard, session)


async def _commit(held: Claim, writer: UploadWriter, digest: Digest) -> bool:
    store, size = open_store(), writer.offset
    # The claim is younger than its lease unless the body was long; then it was renewed on the way.
    try:
        await files(store.commit, held.session, writer, digest)
    except DigestMismatch:
        await writes(uploads.forget, held.session)
        raise
    await writes(uploads.finish, store, held.repository_id, digest, size, held.pusher, held.session)
    return True


def _chunk_start(request: Request) -> int | None:
    """Where the client believes the upload ends; None when it does not say. Raises RangeInvalid."""
    header = request.headers.get("content-range")
    if header is None:
        return None
    first, last = chunk(header)
    if "content-length" in request.headers and request.length != last - first + 1:
        raise RangeInvalid(f"Content-Range {first}-{last} has {last - first + 1} bytes, Content-Length is {request.length}")
    return first


def _claim(credentials: Credentials, name: str, session: str, first: int | None, algorithm: str = "", length: int = 0) -> Claim:
    _admit(credentials, name)
    try:
        return uploads.claim(name, session, first, algorithm, length)
    except QuotaExceeded:
        open_store().discard(session)
        raise
    except RangeInvalid as error:
        offset = int(error.extra.get("offset", 0))
        raise RangeInvalid(error.detail, **_progress(name, session, offset)) from error


async def _open_writer(held: Claim, name: str) -> UploadWriter:
    try:
        writer = await files(open_store().writer, held.session, held.offset, held.algorithm, held.state)
    except UploadBusy as error:
        await writes(uploads.release, held, held.offset, held.state)
        raise RangeInvalid(error.detail, **_progress(name, held.session, held.offset)) from error
    if writer.offset < held.offset:
        await _release(held, writer)
        raise _survived(name, held, writer.offset)
    return writer


async def _append(request: Request, held: Claim, writer: UploadWriter) -> None:
    renewed, reserved = time.monotonic(), held.reserved
    async for batch in request.batches():
        if time.monotonic() - renewed > uploads.RENEW_SECONDS:
            if not await writes(uploads.renew, held):
                raise ClaimLost("another request took this upload over; ask for its offset and go on from there")
            renewed = time.monotonic()
        if 0 <= reserved < writer.offset + len(batch):  # a body that did not say its length
            reserved = await writes(uploads.reserve_more, held, writer.offset + len(batch))
        await files(writer.write, batch)


async def _append_small(request: Request, held: Claim, name: str) -> int:
    """A small chunk in one turn of a file thread; returns where the upload ends then."""
    kept = (held.offset, held.state)
    try:
        data = await request.body(small.SMALL, InvalidInput("the body is longer than its Content-Length"))
        kept = await files(_write_small, held, data)
    except UploadBusy as error:
        raise RangeInvalid(error.detail, **_progress(name, held.session, held.offset)) from error
    finally:
        await asyncio.shield(writes(uploads.release, held, *kept))
    if kept[0] < held.offset:
        raise _survived(name, held, kept[0])
    return kept[0]


def _write_small(held: Claim, data: bytes) -> tuple[int, bytes | None]:
    writer = open_store().writer(held.session, held.offset, held.algorithm, held.state)
    try:
        if writer.offset == held.offset:
            writer.write(data)
        return writer.offset, writer.state()
    finally:
        writer.close()


def _survived(name: str, held: Claim, offset: int) -> RangeInvalid:
    """Power loss took bytes that we had acknowledged: say so, and go on from what is there."""
    return RangeInvalid(f"only {offset} bytes of this upload survived; go on from there", **_progress(name, held.session, offset))


async def _release(held: Claim, writer: UploadWriter) -> None:
    offset, state = held.offset, held.state  # a store that is away does not take more: what was noted before still holds
    try:
        offset, state = await files(_pause, writer)
    finally:
        await writes(uploads.release, held, offset, state)


def _pause(writer: UploadWriter) -> tuple[int, bytes | None]:
    try:
        return writer.offset, writer.state()
    finally:
        writer.close()


async def get(request: Request, name: str, session: str) -> Response:
    offset = await rows(_offset, Credentials.of(request), name, session)
    return Response(204, _progress(name, session, offset))


def _offset(credentials: Credentials, name: str, session: str) -> int:
    _admit(credentials, name)
    row = content.upload(name, session)
    if row is None:
        raise UploadUnknown(f"there is no upload {session[:64]} in {name}: it ended, expired or was cancelled; start a new one")
    return row.offset


async def delete(request: Request, name: str, session: str) -> Response:
    await writes(_cancel, Credentials.of(request), name, session)
    await files(open_store().discard, session)
    return Response(204)


def _cancel(credentials: Credentials, name: str, session: str) -> None:
    _admit(credentials, name)
    uploads.cancel(name, session)
