"""Pushers of one new tag with different images to a repository whose tags are immutable, all at once, on a real database.

    python -m tests.integration.registry.race_immutable PUSHERS ROUNDS BLOB_DIRECTORY

Prints "won N refused N"; fails when the tag of a round does not name its only winner's image, or ever named another one.
"""

from __future__ import annotations

import sys
import threading

import django

django.setup()

from django.core.management import call_command  # noqa: E402  # after setup()
from django.db import connections  # noqa: E402  # after setup()

from controlplane.api.actor import SYSTEM  # noqa: E402  # after setup()
from registry.actions.repositories import update_repository  # noqa: E402  # after setup()
from registry.errors import TagImmutable  # noqa: E402  # after setup()
from registry.models import Repository, Tag, TagChange  # noqa: E402  # after setup()
from registry.storage.filesystem import FilesystemStore  # noqa: E402  # after setup()
from tests.integration.registry import world  # noqa: E402  # after setup()

NAME = "admin/releases"


def race(images: list[bytes], tag: str) -> tuple[list[str], int]:
    """(digests that were taken, how many were refused as immutable). Raises what else a push came to."""
    won: list[str] = []
    refused: list[TagImmutable] = []
    errors: list[BaseException] = []
    start = threading.Barrier(len(images), timeout=60)

    def push(raw: bytes) -> None:
        try:
            Repository.objects.filter(full_name=NAME).exists()  # the connection is there before the start
            start.wait()
            won.append(world.push_manifest(NAME, raw, tag))
        except TagImmutable as error:
            refused.append(error)
        except BaseException as error:  # noqa: BLE001  # told to the main thread
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=push, args=(raw,)) for raw in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return won, len(refused)


def main(pushers: int, rounds: int, directory: str) -> None:
    call_command("migrate", verbosity=0, interactive=False)
    store = FilesystemStore(directory)
    # The images share no blob: on one's lock the pushers would queue before they come to the tag.
    configs = [f'{{"number": {number}}}'.encode() for number in range(pushers)]
    for data in configs:
        world.push_blob(store, NAME, data)
    images = [world.manifest_of(config, []) for config in configs]
    update_repository(SYSTEM, Repository.objects.select_related("collection").get(full_name=NAME), None, immutable_tags=True)
    total = [0, 0]
    for number in range(rounds):
        tag = f"v{number}"
        won, refused = race(images, tag)
        total = [total[0] + len(won), total[1] + refused]
        moves = list(TagChange.objects.filter(tag=tag).values_list("before", "after"))
        named = Tag.objects.get(name=tag).manifest.digest
        if won != [named] or moves != [("", named)]:
            raise SystemExit(f"{tag} names {named}; the pushes that won: {won}; its moves: {moves}")
    print(f"won {total[0]} refused {total[1]}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
