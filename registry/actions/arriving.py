"""What is on its way here from another registry: images that are answered before their layers have come, and blobs.

The tables are this process's. Of all processes one fetches a blob (registry.actions.fetching), the others wait for it. Threads
are daemons, so that a process that ends waits for none: what one has written goes on with whoever asks next.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from django.db import connection

from agent.protocol.errors import Throttled, WharfError
from agent.protocol.oci import Digest
from registry.remote.client import RemoteManifest

IMAGES = 8  # images that are completed at a time
BLOBS = 24  # blobs that are fetched at a time
BACKLOG = 200  # of each that may wait for a thread

log = logging.getLogger(__name__)

Key = tuple[str, str]  # full name of a repository, and a tag or digest


class Crew:
    """At most `size` threads, which do what they are given in its order."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size, self._count = name, size, 0
        self._queue: queue.SimpleQueue[tuple[Callable[[], None], Future[None]]] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def do(self, call: Callable[[], None]) -> Future[None]:
        """Raises Throttled when too much waits already."""
        if self._queue.qsize() > BACKLOG:
            raise Throttled("too much is on its way from other registries; try again in a moment", retry_after=5)
        done: Future[None] = Future()
        self._queue.put((call, done))
        with self._lock:
            if self._count < self._size:
                self._count += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()
        return done

    def _work(self) -> None:
        while True:
            call, done = self._queue.get()
            done.set_running_or_notify_cancel()
            try:
                call()
            except BaseException as error:  # noqa: BLE001  # raised again where the result is asked for
                done.set_exception(error)
            else:
                done.set_result(None)
            finally:
                connection.close()


@dataclass(frozen=True, slots=True)
class ArrivingBlob:
    """`session`: the upload that its bytes go to. `done` fails as the fetch did."""

    digest: Digest
    size: int
    session: str
    done: Future[None]


@dataclass(slots=True)
class ArrivingImage:
    """`asked_at`: when the other registry last said that the tag is this (time.monotonic())."""

    found: RemoteManifest
    sizes: dict[str, int]  # of its blobs
    asked_at: float = field(default_factory=time.monotonic)


_images: dict[Key, ArrivingImage] = {}
_blobs: dict[Key, ArrivingBlob] = {}
_lock = threading.Lock()
_image_crew = Crew("registry-images", IMAGES)
_blob_crew = Crew("registry-blobs", BLOBS)


def image(full_name: str, target: str) -> ArrivingImage | None:
    """By tag or digest."""
    with _lock:
        return _images.get((full_name, target))


def expect_image(full_name: str, target: str, coming: ArrivingImage, complete: Callable[[], None]) -> None:
    """Show the image under `target` and its digest until `complete`, which brings what is missing and keeps it, has ended.

    An image that comes already is only shown under `target` too. Raises Throttled.
    """
    digest = str(coming.found.digest)
    with _lock:
        known = _images.get((full_name, target))
        if known is not None and known.found.digest == coming.found.digest:
            known.asked_at = coming.asked_at
            return
        _images[full_name, target] = _images[full_name, digest] = coming

    def run() -> None:
        try:
            complete()
        except WharfError as error:
            log.warning("%s of %s did not come whole: %s", digest, full_name, error)
        except Exception:
            log.exception("defect while %s of %s came", digest, full_name)
        finally:
            forget_image(full_name, target, coming)

    try:
        _image_crew.do(run)
    except Throttled:
        forget_image(full_name, target, coming)
        raise


def forget_image(full_name: str, target: str, coming: ArrivingImage) -> None:
    """It is here, or does not come; what is shown there since stays."""
    with _lock:
        for key in ((full_name, target), (full_name, str(coming.found.digest))):
            if _images.get(key) is coming:
                del _images[key]


def blob(full_name: str, digest: Digest) -> ArrivingBlob | None:
    with _lock:
        return _blobs.get((full_name, str(digest)))


def size_of(full_name: str, digest: Digest) -> int | None:
    """What the manifest of an image that is coming says; None where none needs this blob."""
    with _lock:
        for (name, _), coming in _images.items():
            if name == full_name and str(digest) in coming.sizes:
                return coming.sizes[str(digest)]
    return None


def expect_blob(full_name: str, digest: Digest, size: int, session: str, fetch: Callable[[], None]) -> ArrivingBlob:
    """The fetch of this blob, which `fetch` begins where none is under way. Raises Throttled."""
    key = (full_name, str(digest))
    with _lock:
        if (known := _blobs.get(key)) is not None:
            return known
        coming = _blobs[key] = ArrivingBlob(digest, size, session, _blob_crew.do(fetch))

    def forget(_: Future[None]) -> None:
        with _lock:
            if _blobs.get(key) is coming:
                del _blobs[key]

    coming.done.add_done_callback(forget)
    return coming
