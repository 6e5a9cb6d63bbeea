"""How many blobs a second the collector takes: `python -m tests.bench.collector [BLOBS] [DIRECTORY]`, on files and SQLite, or on
the database in WHARF_DATABASE_URL. A twentieth of the rows stays referenced, as in a registry that is cleaned for the first time.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

django.setup()

from django.core.management import call_command  # noqa: E402  # after setup()
from django.utils import timezone  # noqa: E402  # after setup()

from controlplane.api.actor import SYSTEM  # noqa: E402  # after setup()
from registry.actions import collect  # noqa: E402  # after setup()
from registry.actions.repositories import ensure_repository  # noqa: E402  # after setup()
from registry.models import Blob, RepositoryBlob  # noqa: E402  # after setup()
from registry.storage.filesystem import FilesystemStore  # noqa: E402  # after setup()
from tests.integration.registry import world  # noqa: E402  # after setup()


def main(count: int, directory: str) -> None:
    call_command("migrate", verbosity=0, interactive=False)
    store = FilesystemStore(directory)
    repository = ensure_repository(SYSTEM, "bench/collector")
    old = timezone.now() - timedelta(days=2)
    rows = []
    for number in range(count):
        data = f"blob {number}".encode()
        digest = world.digest_of(data)
        path = os.path.join(directory, "blobs", "sha256", digest.hex[:2], digest.hex)
        with open(path, "wb") as file:
            file.write(data)
        rows.append(Blob(digest=str(digest), size=len(data), last_touched=old))
    Blob.objects.bulk_create(rows, batch_size=1000)
    kept = list(Blob.objects.order_by("id")[: count // 20])
    RepositoryBlob.objects.bulk_create(
        [RepositoryBlob(repository=repository, blob=row, touched_at=timezone.now()) for row in kept], batch_size=1000
    )
    began = time.monotonic()
    said = collect.candidates(7200)
    dry = time.monotonic() - began
    began = time.monotonic()
    done = collect.collect(store, grace=7200, trash_window=86400)
    took = time.monotonic() - began
    assert (done.blobs, said.blobs) == (count - len(kept), count - len(kept))
    print(f"dry run {dry:.2f} s; {done.blobs} blobs collected in {took:.2f} s: {done.blobs / took:.0f} blobs/s")
    began = time.monotonic()
    assert store.empty_trash(-1) == done.blobs
    print(f"trash emptied in {time.monotonic() - began:.2f} s")


if __name__ == "__main__":
    amount = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    if len(sys.argv) > 2:
        main(amount, sys.argv[2])
    else:
        with tempfile.TemporaryDirectory(prefix="wharf-collector-") as place:
            main(amount, place)
