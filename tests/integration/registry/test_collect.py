"""Garbage collection: what it may take, what it may not, and a thousand random steps in which nothing reachable is lost."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from django.utils import timezone

from agent.protocol.errors import WharfError
from agent.protocol.oci import Digest
from controlplane.api.actor import SYSTEM
from registry.actions import blobs, collect, leases, manifests, uploads
from registry.actions.repositories import delete_repository
from registry.models import Blob, Manifest, Repository, Tag, Upload
from registry.storage.filesystem import FilesystemStore
from tests.integration.registry import world

pytestmark = pytest.mark.django_db(transaction=True)
GRACE = 7200.0


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(str(tmp_path / "blobs"))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the registry on by so many seconds."""
    moved = [0.0]
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + datetime.timedelta(seconds=moved[0]))

    def move(seconds: float) -> None:
        moved[0] += seconds

    return move


def image(store: FilesystemStore, name: str, seed: int, tag: str = "v1") -> tuple[str, list[Digest]]:
    config, layer = f"config {seed}".encode(), f"layer {seed}".encode()
    digests = [world.push_blob(store, name, data) for data in (config, layer)]
    return world.push_manifest(name, world.manifest_of(config, [layer]), tag), digests


def run(store: FilesystemStore) -> collect.Collected:
    return collect.collect(store, grace=GRACE, trash_window=GRACE)


def test_nothing_young_goes(store: FilesystemStore) -> None:
    world.push_blob(store, "admin/a", b"just pushed, its manifest is on the way")
    assert run(store).blobs == 0
    assert world.lost_blobs(store) == []


def test_a_blob_without_manifest_goes_after_two_graces(store: FilesystemStore, later: Callable[[float], None]) -> None:
    digest = world.push_blob(store, "admin/a", b"abandoned")
    later(GRACE + 60)
    first = run(store)
    assert (first.links, first.blobs) == (1, 0), "the link goes, the blob gets a grace of its own"
    later(GRACE + 60)
    second = run(store)
    assert (second.links, second.blobs, second.size) == (0, 1, len(b"abandoned"))
    assert store.size(digest) is None
    assert not Blob.objects.exists()


def test_a_deleted_manifest_frees_its_blobs_and_a_shared_blob_stays(
    store: FilesystemStore, later: Callable[[float], None]
) -> None:
    digest, parts = image(store, "admin/a", 1)
    world.mount("admin/b", parts[1], "admin/a")
    other = b"config of b"
    world.push_blob(store, "admin/b", other)
    world.push_manifest("admin/b", world.manifest_of(other, [b"layer 1"]), "v1")
    manifests.delete_manifest(SYSTEM, "admin/a", digest)
    for _ in range(3):
        later(GRACE + 60)
        run(store)
    assert store.size(parts[0]) is None
    assert store.size(parts[1]) is not None
    assert world.lost_blobs(store) == []


def test_untagged_manifests_stay(store: FilesystemStore, later: Callable[[float], None]) -> None:
    digest, _ = image(store, "admin/a", 1)
    manifests.delete_tag(SYSTEM, "admin/a", "v1")
    for _ in range(3):
        later(GRACE + 60)
        run(store)
    assert Manifest.objects.filter(digest=digest).exists()
    assert world.lost_blobs(store) == []


def test_a_lease_keeps_an_image_whose_repository_is_gone(store: FilesystemStore, later: Callable[[float], None]) -> None:
    digest, parts = image(store, "admin/a", 1)
    assert leases.lease(digest, "task/t1") == 3
    assert leases.lease(digest, "task/t1") == 3, "idempotent"
    delete_repository(SYSTEM, Repository.objects.get(full_name="admin/a"), force=True)
    for _ in range(3):
        later(GRACE + 60)
        run(store)
    assert all(store.size(part) is not None for part in parts)
    assert leases.release("task/t1") == 1
    run(store)
    assert all(store.size(part) is not None for part in parts), "their grace begins with the release"
    later(GRACE + 60)
    run(store)
    assert all(store.size(part) is None for part in parts)


def test_a_pusher_that_saw_a_blob_may_rely_on_it(store: FilesystemStore, later: Callable[[float], None]) -> None:
    digest = world.push_blob(store, "admin/a", b"old layer")
    later(GRACE - 60)
    assert world.head_blob("admin/a", digest)
    later(GRACE / 2)
    run(store)
    config = b"config"
    world.push_blob(store, "admin/a", config)
    world.push_manifest("admin/a", world.manifest_of(config, [b"old layer"]), "v1")
    later(10 * GRACE)
    run(store)
    assert world.lost_blobs(store) == []


def test_a_claimed_blob_is_absent_until_uploaded_again(store: FilesystemStore, later: Callable[[float], None]) -> None:
    digest = world.push_blob(store, "admin/a", b"returns")
    later(GRACE + 60)
    run(store)
    later(GRACE + 60)
    assert collect.claim(GRACE) == 1
    assert not world.head_blob("admin/a", digest)
    assert not world.mount("admin/b", digest, "admin/a")
    world.push_blob(store, "admin/a", b"returns")
    assert collect.delete_batch(store) is None, "it is live again"
    assert world.lost_blobs(store) == []


def test_an_upload_whose_file_the_collector_took_brings_it_back(store: FilesystemStore, later: Callable[[float], None]) -> None:
    """The narrow window: our rename, then the collector's second step, then our transaction."""
    digest = world.push_blob(store, "admin/a", b"contested")
    repository = Repository.objects.get(full_name="admin/a")
    later(GRACE + 60)
    run(store)
    later(GRACE + 60)
    assert collect.claim(GRACE) == 1
    store.put(digest, b"contested")
    assert collect.delete_batch(store) == [len(b"contested")]
    assert store.size(digest) is None
    uploads.finish(store, repository.pk, digest, len(b"contested"), "test")
    assert world.lost_blobs(store) == []


def test_dry_run_says_what_the_run_does_and_deletes_nothing(store: FilesystemStore, later: Callable[[float], None]) -> None:
    image(store, "admin/a", 1)
    for number in range(5):
        world.push_blob(store, "admin/a", f"stray {number}".encode())
    later(GRACE + 60)
    for _ in range(2):
        before = (Blob.objects.count(), len(list(store.blobs())))
        said = collect.candidates(GRACE)
        assert (Blob.objects.count(), len(list(store.blobs()))) == before
        done = run(store)
        assert (said.links, said.blobs, said.size) == (done.links, done.blobs, done.size)
        later(GRACE + 60)
    assert Blob.objects.count() == 2


def test_expired_uploads_and_orphaned_files_go(
    store: FilesystemStore, later: Callable[[float], None], settings: object, tmp_path: Path
) -> None:
    settings.REGISTRY_UPLOAD_TTL = -1  # type: ignore[attr-defined]  # every age is beyond it
    uploads.open_upload(SYSTEM, "admin/a", "sha256")
    writer = store.writer("orphan", 0, "sha256", None)
    writer.write(b"no row knows me")
    writer.close()
    store.put(world.digest_of(b"file without row"), b"file without row")
    kept = world.push_blob(store, "admin/a", b"with a row")
    done = run(store)
    assert not Upload.objects.exists()
    assert (done.uploads, done.orphans) == (1, 1)
    assert list(store.uploads()) == []
    assert store.size(kept) is not None


def test_an_orphan_that_is_pushed_while_it_is_collected_stays(store: FilesystemStore, settings: object) -> None:
    settings.REGISTRY_UPLOAD_TTL = -1  # type: ignore[attr-defined]  # every age is beyond it
    digest = world.digest_of(b"left by a crash")
    store.put(digest, b"left by a crash")
    assert collect.claim_orphans(store) == 1
    assert not world.head_blob("admin/a", digest)
    world.push_blob(store, "admin/a", b"left by a crash")
    assert collect.delete_batch(store) is None
    assert collect.claim_orphans(store) == 0
    assert world.lost_blobs(store) == []
    assert Blob.objects.get().size == len(b"left by a crash")


class Walk:
    """Random writes of three repositories, in the registry's own order, with the clock moving on between them."""

    names = ("admin/a", "admin/b", "other/c")
    data = [f"bytes {number}".encode() for number in range(8)]

    def __init__(self, store: FilesystemStore, later: Callable[[float], None], seed: int) -> None:
        self.store, self.later, self.rand = store, later, random.Random(seed)
        writes = [self.push, self.push, self.delete_manifest, self.delete_tag, self.delete_blob, self.lease, self.release]
        self.steps = [*writes, self.collect, self.collect, self.wait]

    def step(self) -> None:
        self.rand.choice(self.steps)()

    def push(self) -> None:
        name, parts = self.rand.choice(self.names), self.rand.sample(self.data, self.rand.randint(1, 4))
        for part in parts:
            if not world.head_blob(name, world.digest_of(part)) and not world.mount(name, world.digest_of(part), ""):
                world.push_blob(self.store, name, part)
            if self.rand.random() < 0.3:
                self.later(self.rand.random() * GRACE * 0.2)
            if self.rand.random() < 0.3:
                run(self.store)
        world.push_manifest(name, world.manifest_of(parts[0], parts[1:]), f"t{self.rand.randint(0, 3)}")

    def delete_manifest(self) -> None:
        row = Manifest.objects.select_related("repository").order_by("?").first()
        if row is not None:
            manifests.delete_manifest(SYSTEM, row.repository.full_name, row.digest, force=True)

    def delete_tag(self) -> None:
        row = Tag.objects.select_related("repository").order_by("?").first()
        if row is not None:
            manifests.delete_tag(SYSTEM, row.repository.full_name, row.name, force=True)

    def delete_blob(self) -> None:
        try:
            blobs.delete_blob(self.rand.choice(self.names), world.digest_of(self.rand.choice(self.data)))
        except WharfError:
            pass  # absent, or needed by a manifest: both are right answers

    def lease(self) -> None:
        row = Manifest.objects.order_by("?").first()
        if row is not None:
            leases.lease(row.digest, f"task/{self.rand.randint(0, 2)}")

    def release(self) -> None:
        leases.release(f"task/{self.rand.randint(0, 2)}")

    def collect(self) -> None:
        said = collect.candidates(GRACE)
        done = run(self.store)
        assert (said.links, said.blobs, said.size) == (done.links, done.blobs, done.size)

    def wait(self) -> None:
        self.later(self.rand.random() * 2 * GRACE)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_reachable_is_ever_lost(store: FilesystemStore, later: Callable[[float], None], seed: int) -> None:
    walk = Walk(store, later, seed)
    for number in range(120):
        walk.step()
        if number % 6 == 0:
            assert world.lost_blobs(store) == [], f"after step {number} of seed {seed}"
    assert world.lost_blobs(store) == []


def test_everything_unreachable_goes_in_the_end(store: FilesystemStore, later: Callable[[float], None]) -> None:
    walk = Walk(store, later, 99)
    for _ in range(60):
        walk.step()
    Repository.objects.all().delete()
    for number in range(3):
        leases.release(f"task/{number}")
    for _ in range(3):
        later(GRACE + 60)
        run(store)
    assert not Blob.objects.exists()
    assert list(store.blobs()) == []
