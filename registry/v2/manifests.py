"""GET, HEAD, PUT and DELETE of a manifest, by tag or by digest."""

from __future__ import annotations

from collections.abc import Sequence

from agent.protocol.errors import InvalidInput, WharfError
from agent.protocol.oci import (
    MAX_MANIFEST_BYTES,
    Digest,
    Manifest,
    ManifestTooLarge,
    check_tag,
    parse_manifest,
)
from registry.actions import manifests, pulled, pulls
from registry.actions.manifests import Stored
from registry.details import platforms_of
from registry.errors import ManifestUnknown
from registry.queries import content
from registry.queries.content import ManifestRow
from registry.storage.store import DigestMismatch
from registry.v2.auth import Credentials, admit
from registry.v2.request import Memo, Request
from registry.v2.response import Response
from registry.v2.threads import files, rows, writes

MAX_TAGS = 100


class TooManyTags(WharfError):
    code = "too_many_tags"
    status = 414


def _target(text: str) -> str:
    """A checked digest or tag."""
    return str(Digest.parse(text)) if ":" in text else check_tag(text)


def headers_of(digest: str, media_type: str) -> dict[str, str]:
    return {"docker-content-digest": digest, "content-type": media_type, "etag": f'"{digest}"'}


async def head(request: Request, name: str, target: str) -> Response:
    row, request.memo, _ = await rows(_find, Credentials.of(request), name, _target(target), counts=False)
    return Response(200, headers_of(row.digest, row.media_type), length=len(row.content))


async def get(request: Request, name: str, target: str) -> Response:
    # Whatever Accept says: a stored manifest is never converted and never refused.
    target = _target(target)
    row, request.memo, who = await rows(_find, Credentials.of(request), name, target, counts=True)
    pulls.count(name, target, who)
    pulled.note(name, target, row.digest)
    return Response(200, headers_of(row.digest, row.media_type), row.content)


def _find(credentials: Credentials, name: str, target: str, counts: bool) -> tuple[ManifestRow, Memo | None, str]:
    caller = admit(credentials, name, "pull")
    row = content.manifest(name, target)
    if row is None:
        raise ManifestUnknown(f"{name} has no manifest {target}", target=target)
    return row, caller.memo(name, pull=(target, row.digest) if counts else None), caller.name


async def put(request: Request, name: str, target: str) -> Response:
    tags, named = _names(request, target)
    credentials = Credentials.of(request)
    await rows(admit, credentials, name, "pull", "push")
    raw = await request.body(
        MAX_MANIFEST_BYTES, ManifestTooLarge(f"the manifest has more than {MAX_MANIFEST_BYTES} bytes; that is the limit")
    )
    document = parse_manifest(raw, request.headers.get("content-type", ""))
    digest = document.digest(named.algorithm if named else "sha256")
    if named is not None and digest != named:
        raise DigestMismatch(f"the manifest hashes to {digest}, not to {named}")
    platforms = await files(platforms_of, document)
    stored = await writes(_put, credentials, name, document, digest, tags, platforms)
    headers = {"location": f"/v2/{name}/manifests/{target}", "docker-content-digest": str(digest)}
    if document.subject is not None:
        headers["oci-subject"] = str(document.subject.digest)
    return Response(201, headers, tags=tuple(tags) if named else (), warnings=stored.warnings)


def _names(request: Request, target: str) -> tuple[list[str], Digest | None]:
    """The tags to set, and the digest when the manifest is pushed by digest."""
    wanted = request.query.get("tag", [])
    if ":" not in target:
        if wanted:
            raise InvalidInput("tag parameters belong to a push by digest")
        return [check_tag(target)], None
    if len(wanted) > MAX_TAGS:
        raise TooManyTags(f"{len(wanted)} tags in one push; at most {MAX_TAGS}")
    return [check_tag(tag) for tag in dict.fromkeys(wanted)], Digest.parse(target)


def _put(
    credentials: Credentials, name: str, document: Manifest, digest: Digest, tags: Sequence[str], platforms: Sequence[str]
) -> Stored:
    # Judged again, for the body may have been long in coming; the decision is cached.
    caller = admit(credentials, name, "pull", "push")
    return manifests.put_manifest(caller.actor, name, document, digest, tags, platforms)


async def delete(request: Request, name: str, target: str) -> Response:
    await writes(_delete, Credentials.of(request), name, _target(target))
    return Response(202)


def _delete(credentials: Credentials, name: str, target: str) -> None:
    caller = admit(credentials, name, "delete")
    if ":" in target:
        manifests.delete_manifest(caller.actor, name, target)
    else:
        manifests.delete_tag(caller.actor, name, target)
