"""Push an image: blobs the registry lacks (mounted from a sibling repository if it can), then the manifest, byte for byte."""

from __future__ import annotations

import asyncio
import os
from typing import IO, Any, Final
from urllib.parse import quote

import httpx

from agent.images.distribution import ATTEMPTS, RegistryClient, RegistryEndpoint, as_unavailable, pause
from agent.images.errors import ImageUnknown, RegistryUnavailable
from agent.images.image import Image
from agent.images.images import ImageStore, canonical
from agent.images.manifests import compressed_for_push
from agent.images.threads import entered, in_thread
from agent.images.transfers import CONCURRENT, Progress, Together
from agent.protocol.errors import Throttled, Unavailable
from agent.protocol.oci import Descriptor, Digest, Reference, parse_manifest
from agent.storage.errors import DigestMismatch

CHUNK: Final = 8 << 20
_SESSIONS: Final = 8  # upload sessions begun for one blob before we give up
# Unknown session, or one that is not where its state says: distribution answers so after a cut PATCH.
_LOST: Final = (404, 416)


class SessionLost(Unavailable):
    code = "upload_session_lost"


async def push(
    ref: Reference,
    *,
    store: ImageStore,
    endpoint: RegistryEndpoint,
    progress: Progress | None = None,
    image_id: str | None = None,
    chunk: int = CHUNK,
) -> Digest:
    """Send an image to `ref.repository` and name it `ref.tag`; returns the manifest's digest in the registry.

    The image is the one that `ref` names here, or `image_id`. Blobs go up in pieces of `chunk` bytes, so that a broken connection
    costs one piece. Progress as of `pull`, with statuses uploading|uploaded|exists|mounted.
    """
    image = await in_thread(store.get, image_id or canonical(ref))
    pins = [image.id, image.manifest, *image.chain, *(str(layer.digest) for layer in image.layers)]
    async with entered(store.pinned(pins)):
        image = await in_thread(compressed_for_push, store, image)
        raw = await in_thread(store.content.read, Digest.parse(image.manifest))
        manifest = parse_manifest(raw, image.manifest_type)
        blobs = list(dict.fromkeys(blob.digest for blob in manifest.layers))
        sizes = {blob.digest: blob.size for blob in manifest.layers}
        async with RegistryClient(endpoint, ref.repository, "pull,push") as client:
            upload = _Upload(client, store, _siblings(image, ref), progress or _silent, chunk)
            async with Together() as group:
                for digest in blobs:
                    group.create_task(upload.blob(digest, sizes[digest]))
            if manifest.config is None:
                raise ImageUnknown(f"{ref}: the stored manifest has no configuration")
            await upload.blob(manifest.config.digest, manifest.config.size)
            digest = await _put_manifest(client, ref, raw, image.manifest_type, manifest.config)
    await in_thread(store.add_repo_digest, image.id, ref, digest)
    return digest


def _silent(event: dict[str, Any]) -> None:
    """The progress of a push that nobody watches."""


def _siblings(image: Image, ref: Reference) -> list[str]:
    """Repositories of the same registry that are known to hold this image's blobs."""
    found = [Reference.parse(name) for name in image.repo_digests]
    return sorted({known.repository for known in found if known.registry == ref.registry and known.repository != ref.repository})


async def _put_manifest(client: RegistryClient, ref: Reference, raw: bytes, media_type: str, config: Descriptor) -> Digest:
    response, _ = await client.request(
        "PUT", client.url(f"manifests/{ref.tag or 'latest'}"), expect=(201,), headers={"Content-Type": media_type}, content=raw
    )
    stated = response.headers.get("docker-content-digest")
    found = Digest.of(raw, Digest.parse(stated).algorithm if stated else "sha256")
    if stated and str(found) != stated:
        raise DigestMismatch(f"the registry stored manifest {stated}, we sent {found}")
    return found


class _Upload:
    def __init__(self, client: RegistryClient, store: ImageStore, siblings: list[str], progress: Progress, chunk: int) -> None:
        self._client = client
        self._content = store.content
        self._siblings = siblings
        self._progress = progress
        self._chunk = chunk
        self._slots = asyncio.Semaphore(CONCURRENT)

    async def blob(self, digest: Digest, size: int) -> None:
        async with self._slots:
            if await self._present(digest):
                self._report(digest, "exists", size, size)
                return
            location = await self._begin(digest)
            if not location:
                self._report(digest, "mounted", size, size)
                return
            await self._send(digest, location)
            self._report(digest, "uploaded", size, size)

    def _report(self, digest: Digest, status: str, current: int, total: int) -> None:
        self._progress({"digest": str(digest), "status": status, "current": current, "total": total})

    async def _present(self, digest: Digest) -> bool:
        response, _ = await self._client.request("HEAD", self._client.url(f"blobs/{digest}"), expect=(200, 404))
        return response.status_code == 200

    async def _begin(self, digest: Digest) -> str:
        """The upload session's URL, or "" when a mount has made the upload needless."""
        for sibling in self._siblings:
            url = self._client.url(f"blobs/uploads/?mount={quote(str(digest))}&from={quote(sibling, safe='')}")
            response, _ = await self._client.request("POST", url, expect=(201, 202, 401, 403, 404), content=b"")
            if response.status_code == 201:
                return ""
            if response.status_code == 202:  # not there, or not for us: the session goes on as an ordinary upload
                return self._client.location(response)
        response, _ = await self._client.request("POST", self._client.url("blobs/uploads/"), expect=(202,), content=b"")
        return self._client.location(response)

    async def _send(self, digest: Digest, location: str) -> None:
        """Upload through as many sessions as it takes: some registries drop a session whose connection broke."""
        with await in_thread(self._content.open, digest) as file:
            for attempt in range(1, _SESSIONS + 1):
                try:
                    await self._session(digest, location, file)
                    return
                except SessionLost:
                    if await self._present(digest):  # the closing PUT did arrive, only its answer was lost
                        return
                    if attempt == _SESSIONS:
                        raise
                    await pause(attempt)
                    location = await self._begin(digest)
                    if not location:
                        return

    async def _session(self, digest: Digest, location: str, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        offset = failures = 0
        while offset < size:
            try:
                location = await self._piece(location, file, offset, size)
                offset, failures = min(offset + self._chunk, size), 0
            except (httpx.TransportError, RegistryUnavailable, Throttled) as error:
                failures += 1
                if failures >= ATTEMPTS:
                    raise as_unavailable(error, self._client.endpoint.url) from error
                await pause(failures, at_least=getattr(error, "retry_after", 0.0))
                location, offset = await self._where(location)
            self._report(digest, "uploading", offset, size)
        glue = "&" if "?" in location else "?"
        url = f"{location}{glue}digest={quote(str(digest))}"
        response, _ = await self._client.request("PUT", url, expect=(201, *_LOST), content=b"")
        _check_session(response)

    async def _piece(self, location: str, file: IO[bytes], offset: int, size: int) -> str:
        length = min(self._chunk, size - offset)
        data = await in_thread(os.pread, file.fileno(), length, offset)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(data) - 1}",
            "Content-Length": str(len(data)),
        }
        async with self._client.stream("PATCH", location, expect=(202, *_LOST), headers=headers, content=data) as response:
            _check_session(response)
            return self._client.location(response)

    async def _where(self, location: str) -> tuple[str, int]:
        """Ask the session how much it has (distribution-spec, "Pushing a blob in chunks"): (URL to go on with, offset)."""
        response, _ = await self._client.request("GET", location, expect=(202, 204, *_LOST))
        _check_session(response)
        last = response.headers.get("range", "").rpartition("-")[2]
        fresh = self._client.location(response) if "location" in response.headers else location
        # "0-0" means one byte or none; distribution says it of an empty session.
        return fresh, int(last) + 1 if last.isdigit() and last != "0" else 0


def _check_session(response: httpx.Response) -> None:
    if response.status_code in _LOST:
        raise SessionLost(f"the registry forgot an upload session: {response.status_code} at {response.request.url.path}")
