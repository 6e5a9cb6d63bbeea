"""Blob stores of the registry: where the bytes are. `open_store()` gives the one that the settings name."""

from __future__ import annotations

import functools

from django.conf import settings

from registry.storage.filesystem import FilesystemStore
from registry.storage.store import BlobStore


@functools.cache
def _store(location: str) -> BlobStore:
    return FilesystemStore(location)


def open_store() -> BlobStore:
    """The blob store at settings.BLOB_STORE (a directory), made on first use; one object a process."""
    return _store(str(settings.BLOB_STORE))
