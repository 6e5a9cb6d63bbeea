"""Pushers, mounters and deleters against a collector without any grace, in threads on a real database.

    python -m tests.integration.registry.race_collect SECONDS BLOB_DIRECTORY

It goes on after SECONDS, a minute at most, while something has not yet been pushed and something collected.
With no grace a blob may go between its push and its manifest: then the manifest must be refused. What must never happen is a
manifest that was accepted and whose blobs are gone. Prints "pushed N refused N collected N" and fails when anything is lost.
"""

from __future__ import annotations

import random
import sys
import threading
import time

import django

django.setup()

from django.core.management import call_command  # noqa: E402  # after setup()
from django.db import OperationalError, connections  # noqa: E402  # after setup()

from agent.protocol.errors import NotFound, WharfError  # noqa: E402  # after setup()
from controlplane.api.actor import SYSTEM  # noqa: E402  # after setup()
from registry.actions import blobs, collect, manifests  # noqa: E402  # after setup()
from registry.errors import ManifestBlobUnknown  # noqa: E402  # after setup()
from registry.models import Manifest  # noqa: E402  # after setup()
from registry.storage.filesystem import FilesystemStore  # noqa: E402  # after setup()
from tests.integration.registry import world  # noqa: E402  # after setup()

NAMES = ["admin/a", "admin/b"]
DATA = [f"race bytes {number}".encode() for number in range(6)]
TRIPLES = [DATA[:3], DATA[2:5], DATA[4:] + DATA[:1]]  # few manifests, so that a deleted one leaves blobs that nobody needs
counts = {"pushed": 0, "refused": 0, "collected": 0}
errors: list[BaseException] = []


def goes_on(until: float) -> bool:
    now = time.monotonic()
    return not errors and (now < until or (now < until + 60 and not (counts["pushed"] and counts["collected"])))


def pusher(store: FilesystemStore, until: float, seed: int) -> None:
    rand = random.Random(seed)
    while goes_on(until):
        name, parts = rand.choice(NAMES), rand.choice(TRIPLES)
        for part in parts:
            digest = world.digest_of(part)
            if not world.head_blob(name, digest) and not world.mount(name, digest, ""):
                world.push_blob(store, name, part)
        try:
            world.push_manifest(name, world.manifest_of(parts[0], parts[1:]), f"t{seed}")
            counts["pushed"] += 1
        except ManifestBlobUnknown:
            counts["refused"] += 1


def deleter(store: FilesystemStore, until: float, seed: int) -> None:
    rand = random.Random(seed)
    while goes_on(until):
        name = rand.choice(NAMES)
        try:
            row = Manifest.objects.filter(repository__full_name=name).order_by("?").first()
            if row is not None:
                manifests.delete_manifest(SYSTEM, name, row.digest)
            blobs.delete_blob(name, world.digest_of(rand.choice(DATA)))
        except NotFound:
            pass
        except WharfError as error:
            if error.status != 405:
                raise


def collector(store: FilesystemStore, until: float, seed: int) -> None:
    while goes_on(until):
        counts["collected"] += collect.collect(store, grace=0, trash_window=3600).blobs


def guarded(work: object, *arguments: object) -> None:
    try:
        work(*arguments)  # type: ignore[operator]  # one of the three above
    except BaseException as error:  # noqa: BLE001  # told to the main thread
        errors.append(error)
    finally:
        connections.close_all()


def main(seconds: float, directory: str) -> None:
    call_command("migrate", verbosity=0, interactive=False)
    store = FilesystemStore(directory)
    for name in NAMES:
        world.push_blob(store, name, b"so that the repository is there")
    until = time.monotonic() + seconds
    works = [pusher, pusher, pusher, deleter, collector, collector]
    threads = [threading.Thread(target=guarded, args=(work, store, until, seed)) for seed, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, OperationalError):
            raise error
        raise SystemExit(f"the database refused: {error}") from error
    lost = world.lost_blobs(store)
    print(" ".join(f"{name} {count}" for name, count in counts.items()), flush=True)
    if lost:
        raise SystemExit("lost: " + "; ".join(lost))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
