"""Blob stores of the registry: where the bytes are. `open_store()` gives the one that the settings name."""

from __future__ import annotations

import functools

from django.conf import settings

from registry.storage.filesystem import FilesystemStore
from registry.storage.moving import MovingStore
from registry.storage.s3.store import S3Store
from registry.storage.store import BlobStore


@functools.cache
def _store(location: str) -> BlobStore:
    return S3Store(location) if location.startswith("s3://") else FilesystemStore(location)


@functools.cache
def _moving(location: str, also: str) -> MovingStore:
    return MovingStore(_store(location), _store(also))


def open_store() -> BlobStore:
    """The blob store at settings.BLOB_STORE (a directory or s3://…), with the one beside it; one object a process."""
    location, also = str(settings.BLOB_STORE), str(settings.BLOB_STORE_ALSO)
    return _moving(location, also) if also and also != location else _store(location)
