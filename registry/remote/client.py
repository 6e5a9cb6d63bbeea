"""A synchronous client of any registry that speaks OCI distribution or Docker's v2: what mirrors and proxies need of one.

Blobs are streamed in pieces, whatever their size; a broken transfer goes on where it broke.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from agent.protocol.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_MANIFEST_BYTES,
    MEDIA_OCI_INDEX,
    Digest,
    DigestInvalid,
    check_name,
)
from registry.remote import guard
from registry.remote.errors import RemoteAway, RemoteBroken, RemoteRefused, RemoteUnknown
from registry.remote.pace import Pace, Wait
from registry.remote.session import ATTEMPTS, BACKOFF, Remote, Session, read_all
from registry.remote.transport import explained

ACCEPT = ", ".join([MEDIA_OCI_INDEX, *sorted(INDEX_TYPES - {MEDIA_OCI_INDEX}), *sorted(MANIFEST_TYPES)])
PAGE = 1000
MAX_PAGES = 10_000
PAGE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Described:
    """What HEAD says of a manifest; `digest` is "" when the registry does not say."""

    digest: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class RemoteManifest:
    digest: Digest
    media_type: str
    raw: bytes


def pull_scope(name: str) -> str:
    return f"repository:{name}:pull"


def push_scope(name: str) -> str:
    return f"repository:{name}:pull,push"


class RegistryClient:
    """Use as a context manager: it holds connections."""

    def __init__(
        self,
        remote: Remote,
        *,
        pace: Pace | None = None,
        wait: Wait = time.sleep,
        resolver: guard.Resolver = guard.system_resolver,
        attempts: int = ATTEMPTS,
        deadline: float | None = None,
    ) -> None:
        self.remote = remote
        self.session = Session(remote, wait=wait, resolver=resolver, attempts=attempts, deadline=deadline)
        self.pace = pace or Pace(0)
        self.wait = wait

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.session.close()

    def ping(self) -> None:
        """Does a registry answer, and does it take our credentials? Raises what `Session.request` raises."""
        with self.session.request("GET", "/v2/", (), attempts=1):
            return

    def may_push(self, name: str) -> None:
        """Starts an upload and cancels it: the only question about writing that every registry answers."""
        with self.session.request("POST", f"/v2/{check_name(name)}/blobs/uploads/", [push_scope(name)], good=(202,)) as answer:
            location = answer.headers.get("location", "")
        try:
            with self.session.request("DELETE", location, [push_scope(name)], good=(204, 202, 200), attempts=1):
                return
        except (RemoteUnknown, RemoteRefused, RemoteAway):
            return  # it expires by itself

    def head_manifest(self, name: str, reference: str) -> Described | None:
        """None when there is none."""
        try:
            with self.session.request(
                "HEAD", _manifest(name, reference), [pull_scope(name)], headers={"Accept": ACCEPT}
            ) as answer:
                return Described(
                    answer.headers.get("docker-content-digest", ""),
                    answer.headers.get("content-type", "").partition(";")[0].strip(),
                    int(answer.headers.get("content-length", "0") or 0),
                )
        except RemoteUnknown:
            return None

    def get_manifest(self, name: str, reference: str) -> RemoteManifest | None:
        """None when there is none. Its bytes are checked against the digest that was asked for or named."""
        try:
            with self.session.request(
                "GET", _manifest(name, reference), [pull_scope(name)], headers={"Accept": ACCEPT}
            ) as answer:
                with explained(self.remote.host):
                    raw = read_all(answer, MAX_MANIFEST_BYTES)
                named = reference if ":" in reference else answer.headers.get("docker-content-digest", "")
                media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        except RemoteUnknown:
            return None
        try:
            digest = Digest.parse(named) if named else Digest.of(raw)
        except DigestInvalid as error:
            raise RemoteBroken(f"{self.remote.host} names the digest {named[:100]!r} of {name}:{reference}") from error
        if Digest.of(raw, digest.algorithm) != digest:
            raise RemoteBroken(f"{self.remote.host} answered with bytes for {name}:{reference} that do not hash to {digest}")
        return RemoteManifest(digest, media_type, raw)

    def put_manifest(self, name: str, reference: str, raw: bytes, media_type: str) -> bool:
        """True when the registry keeps referrers (it answered with OCI-Subject)."""
        with self.session.request(
            "PUT",
            _manifest(name, reference),
            [push_scope(name)],
            headers={"Content-Type": media_type, "Content-Length": str(len(raw))},
            body=lambda: raw,
            good=(201, 200, 202),
        ) as answer:
            return "oci-subject" in answer.headers

    def delete_manifest(self, name: str, reference: str) -> bool:
        """By tag or digest. False when it is not there any more. Raises RemoteRefused where deleting is switched off."""
        scope = f"repository:{name}:pull,push,delete"
        try:
            with self.session.request("DELETE", _manifest(name, reference), [scope], good=(202, 200, 204)):
                return True
        except RemoteUnknown:
            return False

    def head_blob(self, name: str, digest: str, *, pushing: bool = False) -> int | None:
        """Its size; None when it is not in the repository."""
        scope = push_scope(name) if pushing else pull_scope(name)
        try:
            with self.session.request("HEAD", f"/v2/{name}/blobs/{digest}", [scope]) as answer:
                return int(answer.headers.get("content-length", "0") or 0)
        except RemoteUnknown:
            return None

    def blob(self, name: str, digest: str, start: int = 0) -> Iterator[bytes]:
        """The bytes from `start` on. A transfer that breaks goes on from where it broke. Raises RemoteUnknown, RemoteAway."""
        offset, failures = start, 0
        while True:
            begun = offset
            try:
                for piece in self._blob_once(name, digest, offset):
                    offset += len(piece)
                    self.pace.take(len(piece))
                    yield piece
                return
            except RemoteAway:
                failures = 1 if offset > begun else failures + 1
                if failures >= ATTEMPTS:
                    raise
                self.wait(BACKOFF * 2 ** (failures - 1))

    def _blob_once(self, name: str, digest: str, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self.session.request(
            "GET", f"/v2/{name}/blobs/{digest}", [pull_scope(name)], headers=headers, good=(200, 206)
        ) as answer:
            skip = offset if answer.status_code == 200 else 0  # it knows no ranges: what we have passes by once more
            with explained(self.remote.host):
                for piece in answer.iter_raw():  # as it comes: a break loses nothing that arrived
                    if skip >= len(piece):
                        skip -= len(piece)
                        continue
                    yield piece[skip:]
                    skip = 0

    def tags(self, name: str) -> Iterator[str]:
        """Every tag; none for a repository that is not there."""
        for page in self._pages(f"/v2/{name}/tags/list?n={PAGE}", name):
            found = page.get("tags") or []
            if not isinstance(found, list):
                raise RemoteBroken(f"{self.remote.host} lists no tags of {name}")
            yield from (str(tag) for tag in found)

    def referrers(self, name: str, digest: str) -> list[dict[str, Any]]:
        """Descriptors of what points at a manifest: of the referrers API, else of the old tag schema's index."""
        try:
            found: list[dict[str, Any]] = []
            for page in self._pages(f"/v2/{name}/referrers/{digest}", name, missing=RemoteUnknown):
                found += _descriptors(page)
            return found
        except (RemoteUnknown, RemoteRefused):
            pass  # no such endpoint there
        old = self.get_manifest(name, referrers_tag(digest))
        if old is None or old.media_type not in INDEX_TYPES:
            return []
        return _descriptors(_object(old.raw))

    def _pages(self, path: str, name: str, missing: type[RemoteUnknown] | None = None) -> Iterator[dict[str, Any]]:
        location, seen = path, set()
        for _ in range(MAX_PAGES):
            seen.add(location)
            try:
                with self.session.request("GET", location, [pull_scope(name)]) as answer:
                    with explained(self.remote.host):
                        data = _object(read_all(answer, PAGE_BYTES))
                    following = answer.links.get("next", {}).get("url", "")
            except RemoteUnknown:
                if missing is not None:
                    raise
                return
            yield data
            # The link may be relative, absolute or, at some registries, without a host.
            location = _path(self.session.url(following)) if following else ""
            if not location or location in seen:
                return


def referrers_tag(digest: str) -> str:
    """Where the old tag schema keeps the referrers of a manifest (distribution-spec, "Referrers Tag Schema")."""
    algorithm, _, hex_ = digest.partition(":")
    return f"{algorithm[:32]}-{hex_[:64]}"


def _manifest(name: str, reference: str) -> str:
    return f"/v2/{check_name(name)}/manifests/{quote(reference, safe=':')}"


def _path(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{urlencode(parse_qsl(parts.query, keep_blank_values=True))}" if parts.query else "")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RemoteBroken("the registry answered with what is no JSON") from error
    if not isinstance(data, dict):
        raise RemoteBroken("the registry answered with JSON that is no object")
    return data


def _descriptors(page: dict[str, Any]) -> list[dict[str, Any]]:
    found = page.get("manifests") or []
    return [item for item in found if isinstance(item, dict) and item.get("digest")] if isinstance(found, list) else []
