"""GET, HEAD and DELETE of a blob."""

from __future__ import annotations

from agent.protocol.oci import Digest
from registry.actions.blobs import delete_blob, touch
from registry.errors import BlobUnknown, RangeInvalid
from registry.queries import content
from registry.queries.content import BlobRow
from registry.storage import open_store
from registry.storage.store import BlobFile
from registry.v2.auth import Credentials, admit
from registry.v2.ranges import download
from registry.v2.request import Memo, Request
from registry.v2.response import INLINE_BYTES, BlobResponse, Response
from registry.v2.threads import files, rows, writes

CONTENT_TYPE = "application/octet-stream"


def headers_of(digest: Digest) -> dict[str, str]:
    # A digest names its bytes for ever; private, for rights may end.
    return {
        "docker-content-digest": str(digest),
        "content-type": CONTENT_TYPE,
        "accept-ranges": "bytes",
        "etag": f'"{digest}"',
        "cache-control": "private, max-age=31536000",
    }


async def head(request: Request, name: str, target: str) -> Response:
    digest = Digest.parse(target)
    row, request.memo = await rows(_find, Credentials.of(request), name, digest)
    return Response(200, headers_of(digest), length=row.size)


async def get(request: Request, name: str, target: str) -> Response | BlobResponse:
    digest = Digest.parse(target)
    row, request.memo = await rows(_find, Credentials.of(request), name, digest)
    # Before the file is opened: a refusal must not leave a descriptor behind.
    part = _part(request, row)
    store = open_store()
    if store.redirects and (elsewhere := await files(store.location, digest)) is not None:
        # The address is short-lived: nobody may keep the answer that names it.
        return Response(307, {"location": elsewhere, "docker-content-digest": str(digest), "cache-control": "no-store"})
    blob = await files(store.open, digest)
    if blob is None:
        raise BlobUnknown(f"the bytes of {digest} are missing from the store; push the image again", digest=str(digest))
    headers = headers_of(digest)
    if part is None and blob.size <= INLINE_BYTES:
        return Response(200, headers, await files(_read, blob))
    if part is None:
        return BlobResponse(200, headers, blob, 0, blob.size)
    offset, count = part
    headers["content-range"] = f"bytes {offset}-{offset + count - 1}/{row.size}"
    return BlobResponse(206, headers, blob, offset, count)


def _read(blob: BlobFile) -> bytes:
    try:
        return blob.read_at(0, blob.size)
    finally:
        blob.close()


def _part(request: Request, row: BlobRow) -> tuple[int, int] | None:
    header = request.headers.get("range")
    if header is None or request.headers.get("if-range", f'"{row.digest}"') != f'"{row.digest}"':
        return None
    try:
        return download(header, row.size)
    except RangeInvalid as error:
        raise RangeInvalid(error.detail, content_range=f"bytes */{row.size}") from error


def _find(credentials: Credentials, name: str, digest: Digest) -> tuple[BlobRow, Memo | None]:
    caller = admit(credentials, name, "pull")
    row = content.blob(name, str(digest))
    # A pusher that finds the blob will not upload it: its link must live until the manifest comes.
    if row is None or ("push" in caller.actions(name) and not touch(row)):
        raise BlobUnknown(f"{name} holds no blob {digest}", digest=str(digest))
    # A row that was touched just now says so the next time.
    return row, caller.memo(name, pusher_until=row.touched_at.timestamp() + content.touch_seconds())


async def delete(request: Request, name: str, target: str) -> Response:
    digest = Digest.parse(target)
    await writes(_delete, Credentials.of(request), name, digest)
    return Response(202)


def _delete(credentials: Credentials, name: str, digest: Digest) -> None:
    admit(credentials, name, "delete")
    delete_blob(name, digest)
