"""Pushing to /v2/ (OCI distribution-spec 1.1, "Push"): blobs, in chunks that go on after a broken line; then manifests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agent.protocol.errors import WharfError
from agent.protocol.oci import Manifest, Reference
from controlplane.cli.session import EXIT_CODES, Failure, Session
from nodes.cli.archives import Image
from nodes.cli.layers import Blob

CHUNK = 64 << 20  # bytes a PATCH: small enough that a proxy's limit of a request's time is kept
SMALL = 64 << 10  # bytes: a blob up to this goes in one request
ATTEMPTS = 6  # in a row without a byte more: then the line counts as gone
PAUSE = 0.5  # seconds before the second attempt, doubled from there on
Advance = Callable[[Blob, int], None]


class BrokenLine(Exception):
    """Worth another attempt."""


@dataclass(slots=True)
class Pusher:
    """Into one repository. `advance(blob, bytes)` hears what the registry has taken, negative when it lost some again."""

    session: Session
    repository: str
    advance: Advance = lambda blob, count: None
    client: Any = field(default=None)

    def __enter__(self) -> Pusher:
        import httpx

        context = self.session.context
        # Basic with the token as the password: the registry takes it on every request, no second token is needed
        self.client = httpx.Client(
            base_url=context.server,
            verify=self.session.trust(),
            auth=(context.user, context.token),
            timeout=httpx.Timeout(60, read=300),  # the registry hashes and syncs a large blob before it answers
        )
        return self

    def __exit__(self, *failure: object) -> None:
        self.client.close()

    def push(self, image: Image, tag: str) -> str:
        """All of `image`, then `tag`; the digest it points to. Raises Failure."""
        for blob in image.blobs:
            self.push_blob(blob)
        for child in image.children:
            self._manifest(child, str(child.digest()))
        self._manifest(image.top, tag or str(image.top.digest()))
        return str(image.top.digest())

    # --- blobs ------------------------------------------------------------------------------------------------------------------

    def push_blob(self, blob: Blob) -> None:
        """Nothing when the registry has it."""
        digest = blob.descriptor.digest
        answer = self._patiently(lambda: self._ask("HEAD", f"/v2/{self.repository}/blobs/{digest}"))
        if answer.status_code == 200:
            self.advance(blob, blob.part.size)
            return
        if blob.part.size <= SMALL:
            self._whole(blob)
            return
        place, offset = self._begin(), 0
        failures = 0
        while True:
            try:
                while offset < blob.part.size:
                    place, offset = self._chunk(blob, place, offset)
                self._finish(blob, place)
                return
            except BrokenLine as broken:
                failures += 1
                if failures >= ATTEMPTS:
                    raise Failure(f"The line to the registry is broken: {broken}", 5) from None
                time.sleep(PAUSE * 2 ** (failures - 1))
                place, reached = self._where(blob, place, offset)
                if reached > offset:
                    failures = 0
                self.advance(blob, reached - offset)
                offset = reached

    def _whole(self, blob: Blob) -> None:
        path = f"/v2/{self.repository}/blobs/uploads/?digest={blob.descriptor.digest}"
        data = b"".join(blob.part.pieces())
        headers = {"Content-Type": "application/octet-stream"}
        self._expect(self._patiently(lambda: self._ask("POST", path, content=data, headers=headers)), 201)
        self.advance(blob, blob.part.size)

    def _begin(self) -> str:
        answer = self._patiently(lambda: self._ask("POST", f"/v2/{self.repository}/blobs/uploads/"))
        self._expect(answer, 202)
        return self._place(answer)

    def _chunk(self, blob: Blob, place: str, offset: int) -> tuple[str, int]:
        """One PATCH; where the next one goes, and its offset. Raises BrokenLine: only the registry knows how far that came."""
        count = min(CHUNK, blob.part.size - offset)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(count),
            "Content-Range": f"{offset}-{offset + count - 1}",
        }
        answer = self._ask("PATCH", place, content=self._body(blob, offset, count), headers=headers)
        if answer.status_code == 416:
            raise BrokenLine("the registry has other bytes than we thought")
        self._expect(answer, 202)
        self.advance(blob, count)
        return self._place(answer), offset + count

    def _body(self, blob: Blob, offset: int, count: int) -> Iterator[bytes]:
        for data in blob.part.pieces(offset):
            yield data[:count]
            count -= len(data)
            if count <= 0:
                return
        raise Failure(f"{blob.part.path} became shorter while it was read.")

    def _where(self, blob: Blob, place: str, offset: int) -> tuple[str, int]:
        """How far the registry has the upload; a new one when it knows it no longer."""
        answer = self._patiently(lambda: self._ask("GET", place))
        if answer.status_code == 404:
            return self._begin(), 0
        self._expect(answer, 204)
        last = answer.headers.get("Range", "0-0").rpartition("-")[2]
        # "0-0" also means "nothing" (distribution-spec, end-13): one byte sent twice is refused, so begin at 0 and see
        return self._place(answer), int(last) + 1 if last.isdigit() and int(last) > 0 else 0

    def _finish(self, blob: Blob, place: str) -> None:
        mark = "&" if "?" in place else "?"
        answer = self._ask("PUT", f"{place}{mark}digest={blob.descriptor.digest}", headers={"Content-Length": "0"})
        if answer.status_code == 404:  # the answer to an earlier PUT was lost: is the blob there?
            there = self._ask("HEAD", f"/v2/{self.repository}/blobs/{blob.descriptor.digest}")
            if there.status_code == 200:
                return
        self._expect(answer, 201)

    # --- manifests --------------------------------------------------------------------------------------------------------------

    def _manifest(self, manifest: Manifest, target: str) -> None:
        path = f"/v2/{self.repository}/manifests/{target}"
        headers = {"Content-Type": manifest.media_type}
        self._expect(self._patiently(lambda: self._ask("PUT", path, content=manifest.raw, headers=headers)), 201)

    # --- the line ---------------------------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        import httpx

        try:
            answer = self.client.request(method, path, **options)
        except httpx.TransportError as error:
            raise BrokenLine(str(error) or type(error).__name__) from None
        if answer.status_code in {429, 502, 503, 504}:
            raise BrokenLine(f"the registry answered {answer.status_code}")
        return answer

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """`ask()`, again after a pause while the line is broken: for requests that may be made twice."""
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except BrokenLine as broken:
                if attempt == ATTEMPTS - 1:
                    raise Failure(f"The line to the registry is broken: {broken}", 5) from None
                time.sleep(PAUSE * 2**attempt)
        raise AssertionError("the loop returns or raises")

    def _place(self, answer: Any) -> str:
        """Where the upload goes on; only its path counts, so that our credentials never leave for another host."""
        parts = urlsplit(str(answer.headers.get("Location", "")))
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def _expect(self, answer: Any, status: int) -> None:
        if answer.status_code == status:
            return
        try:
            errors = answer.json().get("errors") or [{}]
        except (ValueError, AttributeError):
            errors = [{}]
        said = errors[0].get("message") or f"the registry answered {answer.status_code}"
        hint = " Run: wharf login" if answer.status_code == 401 else ""
        raise Failure(f"{self.repository}: {said}.{hint}", EXIT_CODES.get(answer.status_code, 1))


def target(session: Session, text: str) -> Reference:
    """ "team/web:1" or "<our host>/team/web:1" -> the reference in our registry. Raises Failure."""
    try:
        found = Reference.parse(text)
    except WharfError as error:
        raise Failure(error.detail, 2) from None
    host = session.context.server.removeprefix("https://")
    if found.registry not in {"", host}:
        raise Failure(f"{found.registry} is another registry; you are signed in to {host}.", 2)
    if found.digest is not None:
        raise Failure("Name a tag, not a digest: the digest follows from the image.", 2)
    return Reference("", found.repository, found.tag or "latest")


def push(session: Session, image: Image, to: Reference, *, quiet: bool = False) -> str:
    """All of `image` under `to`, with a progress bar on a terminal; its digest. Raises Failure."""
    from nodes.cli.progress import Bar

    bar = Bar(f"Pushing {to}", image.size, quiet=quiet or session.as_json)
    with bar, Pusher(session, to.repository, lambda blob, count: bar.advance(count)) as pusher:
        return pusher.push(image, to.tag or "latest")
