"""A collector that is always at work, to be killed: `python -m tests.integration.registry.collect_forever GARBAGE`.

Each turn it makes GARBAGE old blobs without references, as a deleted repository leaves them, and collects. It prints "turn N".
"""

from __future__ import annotations

import sys
from datetime import timedelta

import django

django.setup()

from django.utils import timezone  # noqa: E402  # after setup()

from registry.actions import collect, uploads  # noqa: E402  # after setup()
from registry.models import Blob  # noqa: E402  # after setup()
from registry.storage import open_store  # noqa: E402  # after setup()
from tests.integration.registry import world  # noqa: E402  # after setup()


def garbage(number: int) -> bytes:
    """Bytes that pushers push too: they and the collector meet over them."""
    return f"garbage {number}".encode()


def main(amount: int) -> None:
    store, turn = open_store(), 0
    while True:
        old = timezone.now() - timedelta(days=1)
        for number in range(amount):
            data = garbage(number)
            digest = world.digest_of(data)
            if not Blob.objects.filter(digest=str(digest)).exists():
                store.put(digest, data)
                Blob.objects.bulk_create([Blob(digest=str(digest), size=len(data), last_touched=old)], ignore_conflicts=True)
        uploads.sweep(store)
        collect.collect(store)
        turn += 1
        print(f"turn {turn}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
