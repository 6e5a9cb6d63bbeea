"""Fifty pushers of one new immutable tag, then fifty pushers at the edge of a quota, in threads on a real database.

    python -m tests.integration.registry.race_policies BLOB_DIRECTORY

Prints "won N refused N used N limit N held N".
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import django

django.setup()

from django.core.management import call_command  # noqa: E402  # after setup()
from django.db import OperationalError, connections  # noqa: E402  # after setup()

from controlplane.api.actor import SYSTEM  # noqa: E402  # after setup()
from registry.actions import quotas  # noqa: E402  # after setup()
from registry.actions.repositories import create_repository  # noqa: E402  # after setup()
from registry.errors import QuotaExceeded, TagImmutable  # noqa: E402  # after setup()
from registry.models import Quota, Tag  # noqa: E402  # after setup()
from registry.storage.filesystem import FilesystemStore  # noqa: E402  # after setup()
from tests.integration.registry import world  # noqa: E402  # after setup()

NAME = "library/race"
PUSHERS = 50
errors: list[BaseException] = []
counts = {"won": 0, "refused": 0}


def at_once(work: Callable[[int], None]) -> None:
    barrier = threading.Barrier(PUSHERS)

    def one(number: int) -> None:
        barrier.wait(60)
        try:
            _again(work, number)
        except BaseException as error:  # noqa: BLE001  # told to the main thread
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(PUSHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _again(work: Callable[[int], None], number: int) -> None:
    """As registry.v2.threads does: what the database rolled back to end a deadlock is a whole transaction."""
    for _ in range(2):
        try:
            return work(number)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlstate", None) not in {"40P01", "40001"}:
                raise
    return work(number)


def main(directory: str) -> None:
    call_command("migrate", verbosity=0, interactive=False)
    store = FilesystemStore(directory)
    create_repository(SYSTEM, NAME, immutable_tags=True)
    configs = [f"config {number}".encode() for number in range(PUSHERS)]
    for config in configs:
        world.push_blob(store, NAME, config)

    def push(number: int) -> None:
        try:
            world.push_manifest(NAME, world.manifest_of(configs[number], []), "v1")
            counts["won"] += 1
        except TagImmutable:
            counts["refused"] += 1

    at_once(push)
    assert Tag.objects.filter(name="v1").count() == 1
    held = quotas.set_quota(SYSTEM, "library", 10**6).used
    limit = quotas.set_quota(SYSTEM, "library", held + 10 * 1000).limit

    def fill(number: int) -> None:
        try:
            world.push_blob(store, NAME, f"{number:04}".encode() * 250)
        except QuotaExceeded:
            pass

    at_once(fill)
    row = Quota.objects.get()
    print(f"won {counts['won']} refused {counts['refused']} used {row.used} limit {limit} held {quotas.held(row.pk)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
