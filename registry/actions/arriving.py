"""What is on its way here from another registry: images that are answered before their layers have come, and blobs.

The tables are this process's. Of all processes one fetches a blob (registry.actions.fetching), the others wait for it. Threads
are daemons, so that a process that ends waits for none: what one has written goes on with whoever asks next.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from django.db import connection
from django.utils import timezone

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
    """`tags`: those that it will have here, and when the other registry was last asked for them."""

    found: RemoteManifest
    sizes: dict[str, int]  # of its blobs
    tags: dict[str, datetime] = field(default_factory=dict)


_images: dict[Key, ArrivingImage] = {}
_blobs: dict[Key, ArrivingBlob] = {}
_lock = threading.Lock()
_image_crew = Crew("registry-images", IMAGES)
_blob_crew = Crew("registry-blobs", BLOBS)


def image(full_name: str, target: str) -> ArrivingImage | None:
    """By tag or digest."""
    with _lock:
        return _images.get((full_name, target))


def tags_of(coming: ArrivingImage) -> dict[str, datetime]:
    with _lock:
        return dict(coming.tags)


def expect_image(full_name: str, coming: ArrivingImage, complete: Callable[[ArrivingImage], None]) -> None:
    """Show the image under its digest and tags until `complete` has ended, which brings and keeps what is missing.

    An image that comes already gets the tags too. Raises Throttled.
    """
    digest = str(coming.found.digest)
    with _lock:
        known = _images.get((full_name, digest))
        shown = _images.setdefault((full_name, digest), coming)
        for tag, asked_at in list(coming.tags.items()):
            _take_tag(full_name, tag)
            _images[full_name, tag] = shown
            shown.tags[tag] = asked_at
    if known is not None:
        return

    def run() -> None:
        try:
            complete(coming)
        except WharfError as error:
            log.warning("%s of %s did not come whole: %s", digest, full_name, error)
        except Exception:
            log.exception("defect while %s of %s came", digest, full_name)
        finally:
            _forget_image(full_name, coming)

    try:
        _image_crew.do(run)
    except Throttled:
        _forget_image(full_name, coming)
        raise


def note_asked(full_name: str, tag: str) -> None:
    """The other registry just said again that the tag is the image that comes."""
    with _lock:
        coming = _images.get((full_name, tag))
        if coming is not None and tag in coming.tags:
            coming.tags[tag] = timezone.now()


def take_tag(full_name: str, tag: str) -> None:
    """The image that comes with this tag, if one does, will not have it."""
    with _lock:
        _take_tag(full_name, tag)


def _take_tag(full_name: str, tag: str) -> None:
    if (coming := _images.pop((full_name, tag), None)) is not None:
        coming.tags.pop(tag, None)


def _forget_image(full_name: str, coming: ArrivingImage) -> None:
    """It is here, or does not come."""
    with _lock:
        for target in (*coming.tags, str(coming.found.digest)):
            if _images.get((full_name, target)) is coming:
                del _images[full_name, target]


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
