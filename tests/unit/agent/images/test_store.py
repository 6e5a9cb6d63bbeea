"""The content store: whole blobs or none, whatever happens on the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.images.errors import BlobUnknown
from agent.images.store import ContentStore, IngestBusy
from agent.protocol.oci import Digest
from agent.storage.errors import DigestMismatch, NoSpace

DATA = b"some bytes" * 1000


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "content"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_put_and_read(store: ContentStore, algorithm: str) -> None:
    digest = store.put(iter([DATA[:7], DATA[7:]]), algorithm=algorithm)
    assert digest == Digest.of(DATA, algorithm)
    assert store.has(digest)
    assert store.read(digest) == DATA
    assert (store.size(digest), store.arrived(digest)) == (len(DATA), len(DATA))
    assert list(store.digests()) == [digest]
    assert store.put(DATA, digest) == digest  # again is fine
    assert store.delete(digest)
    assert not store.delete(digest)
    with pytest.raises(BlobUnknown):
        store.open(digest)
    with pytest.raises(BlobUnknown):
        store.size(digest)


def test_a_wrong_digest_leaves_nothing(store: ContentStore) -> None:
    with pytest.raises(DigestMismatch):
        store.put(DATA, Digest.of(b"other"))
    assert list(store.digests()) == []
    assert os.listdir(f"{store.root}/ingest") == []


def test_a_failing_source_leaves_nothing(store: ContentStore) -> None:
    def source() -> object:
        yield DATA
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        store.put(source())  # type: ignore[arg-type]  # a generator that fails
    assert os.listdir(f"{store.root}/ingest") == []


@given(st.lists(st.integers(1, len(DATA) - 1), max_size=5))
def test_arrivals_go_on_after_breaks(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    store = ContentStore(str(tmp_path_factory.mktemp("content")))
    digest = Digest.of(DATA)
    for end in sorted({*cuts, len(DATA)}):
        assert not store.has(digest)
        with store.ingest(digest) as ingest:
            ingest.write(DATA[ingest.offset : end])
    assert store.arrived(digest) == len(DATA)
    with store.ingest(digest) as ingest:
        assert ingest.offset == len(DATA)
        ingest.commit()
    assert store.read(digest) == DATA


@pytest.mark.parametrize("call", ["fdatasync", "replace"])
def test_a_disk_that_fills_at_the_commit(store: ContentStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The bytes stay for another try."""
    digest = Digest.of(b"late")

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.ingest(digest) as ingest:
        ingest.write(b"late")
        with monkeypatch.context() as full:
            full.setattr(os, call, refuse)
            with pytest.raises(NoSpace):
                ingest.commit()
        ingest.commit()
    assert store.read(digest) == b"late"


def test_a_spoilt_arrival_is_forgotten(store: ContentStore) -> None:
    digest = Digest.of(DATA)
    with store.ingest(digest) as ingest:
        ingest.write(b"x" + DATA[1:])
        with pytest.raises(DigestMismatch):
            ingest.commit()
    assert store.arrived(digest) == 0
    with store.ingest(digest) as ingest:
        ingest.write(b"xyz")
        ingest.restart()
        ingest.write(DATA)
        ingest.commit()
    assert store.read(digest) == DATA


def test_one_writer_a_blob(store: ContentStore) -> None:
    digest = Digest.of(DATA)
    with store.ingest(digest), pytest.raises(IngestBusy):
        store.ingest(digest)
    with store.ingest(digest):
        pass


def test_local_leftovers_are_swept_and_arrivals_kept(store: ContentStore) -> None:
    with store.ingest(Digest.of(DATA)) as ingest:
        ingest.write(DATA[:10])
    Path(store.root, "ingest", "crashed.new").write_bytes(b"x")
    again = ContentStore(store.root)
    assert os.listdir(f"{store.root}/ingest") == [os.path.basename(store.ingest_path(Digest.of(DATA)))]
    assert again.arrived(Digest.of(DATA)) == 10
