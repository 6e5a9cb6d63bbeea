"""Small blobs of the filesystem store: durable by the journal before their files are, and written again after a power cut."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.protocol.oci import Digest
from registry.storage import journal
from registry.storage.filesystem import FilesystemStore
from registry.storage.store import SmallBlob

RAND = random.Random(12)


def small(size: int = 3000, session: str = "") -> SmallBlob:
    data = RAND.randbytes(size)
    return SmallBlob(Digest.of(data), data, session)


def content(store: FilesystemStore, blob: SmallBlob) -> bytes | None:
    found = store.open(blob.digest)
    if found is None:
        return None
    try:
        return found.read_at(0, found.size)
    finally:
        found.close()


def path_of(store: FilesystemStore, blob: SmallBlob) -> Path:
    return Path(store.root) / "blobs" / "sha256" / blob.digest.hex[:2] / blob.digest.hex


def test_several_at_once(tmp_path: Path) -> None:
    store = FilesystemStore(str(tmp_path))
    blobs = [small(size) for size in (0, 1, 16384, 65536)]
    store.put_all(blobs)
    assert [content(store, blob) for blob in blobs] == [blob.data for blob in blobs]
    assert list(store.uploads()) == []


def test_where_space_is_short_no_journal_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, blob = FilesystemStore(str(tmp_path)), small(session="s1")
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(blob.data)
    writer.close()
    monkeypatch.setattr("registry.storage.filesystem.ROOMY", 1 << 62)
    store.put_all([blob])
    assert content(store, blob) == blob.data
    assert list((tmp_path / "journal").iterdir()) == []
    assert list(store.uploads()) == []


def test_the_file_of_the_session_becomes_the_blobs(tmp_path: Path) -> None:
    store = FilesystemStore(str(tmp_path))
    whole, part = small(session="whole"), small(session="part")
    for blob, data in ((whole, whole.data), (part, part.data[:100])):
        writer = store.writer(blob.session, 0, "sha256", None)
        writer.write(data)
        writer.close()
    inode = os.stat(tmp_path / "uploads/whole").st_ino
    store.put_all([whole, part])
    assert path_of(store, whole).stat().st_ino == inode
    assert content(store, part) == part.data, "a session with other bytes is no source"


# What the child pushed is in the journal; its files are as a power cut may leave them. Its journals are not locked any more.
CHILD = """
import os, sys
from agent.protocol.oci import Digest
from registry.storage.filesystem import FilesystemStore
from registry.storage.store import SmallBlob
store = FilesystemStore(sys.argv[1])
for number in range(5):
    data = b"blob %d" % number * 500
    store.put_all([SmallBlob(Digest.of(data), data)])
os.kill(os.getpid(), 9)
"""


def killed_after_five(root: Path) -> list[SmallBlob]:
    done = subprocess.run([sys.executable, "-c", CHILD, str(root)], check=False)
    assert done.returncode == -9
    return [SmallBlob(Digest.of(data), data) for data in (b"blob %d" % number * 500 for number in range(5))]


def test_files_that_a_power_cut_took_are_written_again(tmp_path: Path) -> None:
    blobs = killed_after_five(tmp_path)
    before = FilesystemStore.__new__(FilesystemStore)
    before.root = str(tmp_path)
    path_of(before, blobs[0]).unlink()
    path_of(before, blobs[1]).write_bytes(b"")
    path_of(before, blobs[2]).write_bytes(bytes(len(blobs[2].data)))
    trashed = tmp_path / "trash" / f"sha256-{blobs[3].digest.hex}"
    path_of(before, blobs[3]).rename(trashed)
    store = FilesystemStore(str(tmp_path))
    assert [content(store, blob) for blob in blobs] == [blobs[0].data, blobs[1].data, blobs[2].data, None, blobs[4].data]
    assert trashed.exists(), "what was deleted meanwhile stays deleted"
    assert list((tmp_path / "journal").iterdir()) == [], "what was recovered is done with"
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_torn_record_ends_the_journal(tmp_path: Path) -> None:
    blobs = killed_after_five(tmp_path)
    for path in (tmp_path / "journal").iterdir():
        raw = bytearray(path.read_bytes())
        if (place := raw.find(blobs[3].data)) >= 0:
            raw[place + 7] ^= 1
            path.write_bytes(raw)
    for blob in blobs:
        (tmp_path / "blobs/sha256" / blob.digest.hex[:2] / blob.digest.hex).unlink()
    store = FilesystemStore(str(tmp_path))
    assert [content(store, blob) is not None for blob in blobs] == [True, True, True, False, False]


def test_a_living_process_keeps_its_journal(tmp_path: Path) -> None:
    store, blob = FilesystemStore(str(tmp_path)), small()
    store.put_all([blob])
    journals = sorted((tmp_path / "journal").iterdir())
    assert len(journals) == 2
    path_of(store, blob).unlink()
    other = FilesystemStore(str(tmp_path))
    assert sorted((tmp_path / "journal").iterdir()) == journals
    assert content(other, blob) is None


def test_a_full_journal_begins_anew_when_its_files_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SIZE", 1 << 20)
    synced: list[str] = []
    real = journal.sync_filesystem
    monkeypatch.setattr(journal, "sync_filesystem", lambda path: (synced.append(path), real(path)))
    store = FilesystemStore(str(tmp_path))
    blobs = [small(60_000) for _ in range(60)]
    for blob in blobs:
        store.put_all([blob])
        for thread in threading.enumerate():
            if thread.name == "registry-journal":
                thread.join()
    assert all(content(store, blob) == blob.data for blob in blobs)
    assert len(synced) == 3
    assert sum(path.stat().st_size for path in (tmp_path / "journal").iterdir()) == 2 << 20


def test_nobody_waits_for_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SIZE", 1 << 20)
    let = threading.Event()
    real = journal.sync_filesystem

    def slow(path: str) -> None:
        assert let.wait(30)
        real(path)

    store = FilesystemStore(str(tmp_path))
    monkeypatch.setattr(journal, "sync_filesystem", slow)
    blobs = [small(60_000) for _ in range(60)]
    for blob in blobs:
        store.put_all([blob])
    let.set()
    assert all(content(store, blob) == blob.data for blob in blobs)


def test_records_of_the_generation_before_are_leftovers(tmp_path: Path) -> None:
    log = journal.Journal(str(tmp_path))
    first, second = small(), small(10)
    assert log.append([(first.digest, first.data), (first.digest, first.data)])
    log.renew()
    assert log.append([(second.digest, second.data)])
    with open(log.path, "rb") as file:
        assert list(journal.records(file.fileno())) == [(second.digest, second.data)]


def test_a_sync_that_failed_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SIZE", 1 << 20)

    def broken(path: str) -> None:
        raise OSError(5, "Input/output error")

    store = FilesystemStore(str(tmp_path))
    monkeypatch.setattr(journal, "sync_filesystem", broken)

    def fill() -> None:
        for _ in range(60):
            store.put_all([small(60_000)])
            for thread in threading.enumerate():
                if thread.name == "registry-journal":
                    thread.join()

    with pytest.raises(OSError, match="could not be made durable"):
        fill()


def test_a_journal_that_is_taken_for_one_left_behind_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that starts just then finds the new file before its maker has locked it, and removes it."""
    store, blob = FilesystemStore(str(tmp_path)), small()
    real, met = journal.fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if how == journal.fcntl.LOCK_EX and not met:
            met.append(fd)
            FilesystemStore(str(tmp_path))
        real(fd, how)

    monkeypatch.setattr(journal.fcntl, "flock", flock)
    store.put_all([blob])
    assert met
    files = list((tmp_path / "journal").iterdir())
    assert len(files) == 2
    assert any(blob.data in file.read_bytes() for file in files), "a power cut would take the blob"


def test_who_recovers_second_leaves_a_journal_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_bytes(b"")
    real = journal.fcntl.flock

    def flock(fd: int, how: int) -> None:
        (tmp_path / "old").unlink()
        real(fd, how)

    monkeypatch.setattr(journal.fcntl, "flock", flock)
    assert list(journal.left(str(tmp_path))) == []
