"""Scrubbing, comparing store and database, moving to another store: in one process, on files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.oci import Digest
from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from registry.actions import moving, quarantine, reconcile, uploads
from registry.actions.scrub import scrub
from registry.actions.throttle import Throttle
from registry.models import Blob, Upload
from registry.storage.filesystem import FilesystemStore
from registry.storage.moving import MovingStore
from tests.integration.registry import world
from tests.memory_store import MemoryStore

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "admin/a"


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(str(tmp_path / "blobs"))


def path_of(store: FilesystemStore, digest: Digest) -> str:
    return os.path.join(store.root, "blobs", digest.algorithm, digest.hex[:2], digest.hex)


def spoil(store: FilesystemStore, digest: Digest, data: bytes) -> None:
    Path(path_of(store, digest)).write_bytes(data)


def state_of(digest: Digest) -> int:
    return Blob.objects.get(digest=str(digest)).state


def test_scrub_quarantines_what_is_spoilt_and_a_push_makes_it_whole(store: FilesystemStore) -> None:
    bad, good = (world.push_blob(store, NAME, data) for data in (b"spoilt soon", b"stays good"))
    spoil(store, bad, b"spoilt now!")
    done = scrub(store)
    assert (done.blobs, done.bad, done.missing, done.size) == (2, [str(bad)], [], 21)
    assert not world.head_blob(NAME, bad)
    assert not world.mount("admin/b", bad, NAME)
    assert world.head_blob(NAME, good)
    event = Event.objects.get(kind="blob.quarantined")
    assert event.data == {"digest": str(bad), "size": 11, "found": "bad", "repositories": [NAME]}
    assert (Path(store.root) / "quarantine" / f"sha256-{bad.hex}").read_bytes() == b"spoilt now!"
    world.push_blob(store, NAME, b"spoilt soon")
    assert world.head_blob(NAME, bad)
    assert world.lost_blobs(store) == []
    assert scrub(store).bad == []


def test_scrub_takes_the_longest_unseen_first_and_goes_on_where_it_stopped(store: FilesystemStore) -> None:
    digests = [world.push_blob(store, NAME, bytes([number]) * 1000) for number in range(6)]
    assert scrub(store, days=1).blobs == 0, "the upload has hashed them a moment ago"
    first = scrub(store, time_box=-1)
    assert (first.blobs, first.stopped) == (0, True)

    class Enough(Exception):
        pass

    seen: list[int] = []

    def stop(done: int, total: int, text: str) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise Enough

    with pytest.raises(Enough):
        scrub(store, report=stop)
    again = [row.digest for row in Blob.objects.order_by("verified_at", "id")]
    assert again[:4] == [str(digest) for digest in digests[2:]], "two were finished"
    assert scrub(store).blobs == 6


def test_scrub_keeps_to_its_rate(store: FilesystemStore) -> None:
    for number in range(4):
        world.push_blob(store, NAME, bytes([number]) * 500_000)
    pauses: list[float] = []
    scrub(store, rate=1_000_000, pause=pauses.append)
    assert sum(pauses) > 0
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    throttle = Throttle(1000, sleep, lambda: now[0])
    for _ in range(10):
        throttle.took(500)
    assert now[0] == pytest.approx(5.0, abs=1.0), "5,000 bytes at 1,000 a second"


def test_a_missing_blob_comes_back_from_the_trash(store: FilesystemStore) -> None:
    digest = world.push_blob(store, NAME, b"thrown away by hand")
    store.trash(digest)
    assert scrub(store).restored == [str(digest)]
    assert world.lost_blobs(store) == []


def test_an_upload_during_the_second_look_wins(store: FilesystemStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = world.push_blob(store, NAME, b"contested")
    spoil(store, digest, b"spoilt...")
    real = quarantine.check

    def check(*arguments: Any) -> str:
        verdict = real(*arguments)
        world.push_blob(store, NAME, b"contested")
        return verdict

    monkeypatch.setattr(quarantine, "check", check)
    assert quarantine.judge(store, Blob.objects.get().pk) == quarantine.GOOD
    assert world.lost_blobs(store) == []
    assert not Event.objects.filter(kind="blob.quarantined").exists()


def test_reconcile_reports_both_ways_and_changes_nothing(store: FilesystemStore, settings: Any) -> None:
    kept, gone, short = (world.push_blob(store, NAME, data) for data in (b"kept", b"gone", b"short"))
    os.unlink(path_of(store, gone))
    spoil(store, short, b"s")
    orphan, young = world.digest_of(b"orphan"), world.digest_of(b"young")
    store.put(orphan, b"orphan")
    os.utime(path_of(store, orphan), (1, 1))
    store.put(young, b"young")
    for _ in range(2):
        done = reconcile.reconcile(store)
        assert done.missing.digests == [str(gone)]
        assert done.wrong_size.digests == [str(short)]
        assert (done.orphans.digests, done.orphans.size) == ([str(orphan)], 6)
        assert (done.blobs, done.young, done.repaired, done.clean) == (3, 1, 0, False)
    assert state_of(gone) == Blob.State.LIVE

    assert reconcile.reconcile(store, repair=True).repaired == 3
    assert store.size(orphan) is None
    assert store.restore(orphan), "it is in the trash"
    assert (state_of(gone), state_of(short)) == (Blob.State.QUARANTINED, Blob.State.QUARANTINED)
    assert world.head_blob(NAME, kept)
    after = reconcile.reconcile(store)
    assert (after.missing.count, after.wrong_size.count, after.quarantined) == (0, 0, 2)


def test_the_beginnings_meet_every_digest_once(store: FilesystemStore) -> None:
    digests = {str(world.push_blob(store, NAME, f"n{number}".encode())) for number in range(300)}
    found = [digest for beginning in reconcile.beginnings() for digest in reconcile.rows_of(beginning)]
    assert sorted(found) == sorted(digests)


def test_moving_while_pushes_go_on(tmp_path: Path) -> None:
    old, new = FilesystemStore(str(tmp_path / "old")), MemoryStore()
    both = MovingStore(new, old)
    names = [world.push_blob(old, NAME, os.urandom(size)) for size in (0, 10, 100_000, 5 << 20)]
    session = uploads.open_upload(SYSTEM, NAME, "sha256").pk
    writer = old.writer(session, 0, "sha256", None)
    writer.write(b"begun before ")
    writer.close()

    pushed: list[Digest] = []

    def push(done: int, total: int, text: str) -> None:
        if len(pushed) < 5:
            pushed.append(world.push_blob(both, NAME, f"meanwhile {len(pushed)}".encode()))
            pushed.append(world.push_blob(old, NAME, f"by a process with the old settings {len(pushed)}".encode()))

    done = moving.move(both, report=push)
    assert not done.complete
    assert done.uploads == 1, "an upload is still open in the old store"
    writer = both.writer(session, 13, "sha256", None)
    writer.write(b"the switch")
    both.commit(session, writer, world.digest_of(b"begun before the switch"))
    uploads.finish(both, Upload.objects.get().repository_id, world.digest_of(b"begun before the switch"), 23, "x", session)

    again = moving.move(both)
    assert (again.complete, again.copied) == (True, 1)
    assert world.lost_blobs(new) == []
    assert all(new.size(name) is not None for name in [*names, *pushed])
    assert moving.move(both).copied == 0
    assert Event.objects.filter(kind="blobs.moved").count() == 3


def test_moving_takes_nothing_spoilt_along(tmp_path: Path) -> None:
    old, new = FilesystemStore(str(tmp_path / "old")), FilesystemStore(str(tmp_path / "new"))
    bad, large, gone = (world.push_blob(old, NAME, data) for data in (b"bad", bytes(6 << 20), b"gone"))
    spoil(old, bad, b"BAD")
    spoil(old, large, bytes((6 << 20) - 1) + b"x")
    os.unlink(path_of(old, gone))
    done = moving.move(MovingStore(new, old))
    assert (sorted(done.bad), done.missing, done.complete) == (sorted([str(bad), str(large)]), [str(gone)], False)
    assert list(new.blobs()) == []
    assert list(new.uploads()) == []


def test_moving_stops_at_once_and_goes_on(tmp_path: Path) -> None:
    old, new = FilesystemStore(str(tmp_path / "old")), FilesystemStore(str(tmp_path / "new"))
    for number in range(30):
        world.push_blob(old, NAME, f"blob {number}".encode())

    class Cancelled(Exception):
        pass

    def stop(done: int, total: int, text: str) -> None:
        if done >= 10:
            raise Cancelled

    with pytest.raises(Cancelled):
        moving.move(MovingStore(new, old), report=stop)
    there = len(list(new.blobs()))
    assert 10 <= there < 30
    assert moving.move(MovingStore(new, old)).copied == 30 - there
    assert world.lost_blobs(new) == []


def test_bring_back_is_refused_when_the_trash_was_emptied(store: FilesystemStore) -> None:
    from registry.actions import blobs
    from registry.actions.repositories import ensure_repository

    repository = ensure_repository(SYSTEM, NAME)
    digest = world.digest_of(b"never there")
    assert not blobs.bring_back(store, repository.pk, digest, 11, "test")
    assert not Blob.objects.exists()
