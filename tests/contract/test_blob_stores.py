"""One suite for every blob store driver: a driver is done when `make_store` yields it and this passes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.protocol.oci import Digest
from registry.storage.filesystem import FilesystemStore
from registry.storage.moving import MovingStore
from registry.storage.s3.store import S3Store
from registry.storage.store import BlobStore, DigestMismatch
from tests.memory_store import MemoryStore
from tests.s3 import CREDENTIALS, S3Server, s3_server

MakeStore = Callable[[], BlobStore]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(params=["filesystem", "s3", "moving", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeStore]:
    """A factory: each call opens the same store anew, as another process would."""
    made: list[BlobStore] = []
    location, memory = "", MemoryStore()
    if request.param in ("s3", "moving"):
        server = request.getfixturevalue("server")
        location = server.location(server.bucket(), part=5)
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)

    def make() -> BlobStore:
        if request.param == "memory":
            return memory
        files = FilesystemStore(str(tmp_path / "store"))
        if request.param == "filesystem":
            return files
        made.append(store := S3Store(location))
        return store if request.param == "s3" else MovingStore(store, files)

    yield make
    for store in made:
        store.close()  # type: ignore[attr-defined]  # S3's connections


@pytest.fixture
def store(make_store: MakeStore) -> BlobStore:
    return make_store()


def digest(data: bytes, algorithm: str = "sha256") -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())


def read(store: BlobStore, name: Digest) -> bytes:
    blob = store.open(name)
    assert blob is not None
    try:
        return blob.read_at(0, blob.size)
    finally:
        blob.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_put_then_read(store: BlobStore, algorithm: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    name = digest(data, algorithm)
    assert store.open(name) is None
    assert store.size(name) is None
    store.put(name, data)
    assert store.size(name) == size
    assert read(store, name) == data


def test_put_refuses_other_bytes_and_leaves_nothing(store: BlobStore) -> None:
    with pytest.raises(DigestMismatch):
        store.put(digest(b"one"), b"two")
    assert store.size(digest(b"one")) is None
    assert list(store.uploads()) == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_upload_in_pieces_by_several_processes(make_store: MakeStore, algorithm: str) -> None:
    rand = random.Random(algorithm)
    data = rand.randbytes(300_000)
    offset, state = 0, None
    while offset < len(data):
        store = make_store()
        writer = store.writer("s1", offset, algorithm, state)
        assert writer.offset == offset
        step = rand.randint(1, 90_000)
        writer.write(data[offset : offset + step])
        offset, state = writer.offset, writer.state()
        writer.close()
    store = make_store()
    writer = store.writer("s1", offset, algorithm, state)
    store.commit("s1", writer, digest(data, algorithm))
    assert read(store, digest(data, algorithm)) == data
    assert list(store.uploads()) == []


def test_algorithm_named_only_at_the_end(store: BlobStore) -> None:
    data = b"late" * 1000
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(data)
    store.commit("s1", writer, digest(data, "sha512"))
    assert read(store, digest(data, "sha512")) == data


@pytest.mark.parametrize("state", [None, b"", b"{}", b'{"algorithm": "sha256"}\nshort', b"\xff\xfe"])
def test_lost_or_foreign_state_hashes_the_bytes_again(store: BlobStore, state: bytes | None) -> None:
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"first ")
    writer.close()
    writer = store.writer("s1", 6, "sha256", state)
    writer.write(b"second")
    store.commit("s1", writer, digest(b"first second"))
    assert read(store, digest(b"first second")) == b"first second"


def test_unacknowledged_tail_is_cut(store: BlobStore) -> None:
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"kept")
    state = writer.state()
    writer.write(b"never acknowledged")
    writer.close()
    writer = store.writer("s1", 4, "sha256", state)
    assert writer.offset == 4
    writer.write(b" more")
    store.commit("s1", writer, digest(b"kept more"))
    assert read(store, digest(b"kept more")) == b"kept more"


def test_missing_tail_shows_the_true_offset(store: BlobStore) -> None:
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"four")
    writer.close()
    writer = store.writer("s1", 10, "sha256", None)
    assert writer.offset == 4
    writer.write(b"teen")
    store.commit("s1", writer, digest(b"fourteen"))


def test_mismatch_drops_the_upload(store: BlobStore) -> None:
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"bytes")
    with pytest.raises(DigestMismatch):
        store.commit("s1", writer, digest(b"other"))
    assert store.size(digest(b"other")) is None
    assert list(store.uploads()) == []


def test_same_blob_twice(store: BlobStore) -> None:
    store.put(digest(b"x"), b"x")
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"x")
    store.commit("s1", writer, digest(b"x"))
    assert read(store, digest(b"x")) == b"x"


def test_discard(store: BlobStore) -> None:
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"gone")
    writer.close()
    assert [session for session, _ in store.uploads()] == ["s1"]
    store.discard("s1")
    store.discard("s1")
    assert list(store.uploads()) == []


def test_trash_restore_and_empty(store: BlobStore) -> None:
    name = digest(b"bin")
    store.put(name, b"bin")
    store.trash(name)
    assert store.size(name) is None
    assert store.empty_trash(3600) == 0
    assert store.restore(name)
    assert read(store, name) == b"bin"
    assert store.restore(name), "restoring a visible blob is fine"
    store.trash(name)
    store.trash(name)
    assert store.empty_trash(-2) == 1
    assert not store.restore(name)


def test_who_reads_a_blob_can_read_on_when_it_is_deleted(store: BlobStore) -> None:
    name = digest(b"still here")
    store.put(name, b"still here")
    blob = store.open(name)
    assert blob is not None
    try:
        assert blob.read_at(0, 6) == b"still "
        store.trash(name)
        assert blob.read_at(6, 4) == b"here"
        assert blob.read_at(2, 3) == b"ill", "also from elsewhere, while it is in the trash"
    finally:
        blob.close()
    assert store.empty_trash(-2) == 1


def test_ranges(store: BlobStore) -> None:
    data = random.Random(3).randbytes(3 << 20)
    store.put(digest(data), data)
    blob = store.open(digest(data))
    assert blob is not None
    try:
        for offset, count in [(0, 10), (500, 1000), (1 << 20, 1 << 20), ((3 << 20) - 5, 100), (7, 0), (3 << 20, 1), (10, 10)]:
            assert blob.read_at(offset, count) == data[offset : offset + count]
        assert b"".join(blob.read_at(start, 1 << 20) for start in range(0, len(data), 1 << 20)) == data
    finally:
        blob.close()


def test_large_upload_in_several_requests(make_store: MakeStore) -> None:
    """Larger than a part of S3, with pieces that are smaller than one between."""
    data = random.Random(4).randbytes(13 << 20)
    offset, state = 0, None
    for step in (1 << 20, 7 << 20, 10, 3 << 20, len(data)):
        store = make_store()
        writer = store.writer("large", offset, "sha256", state)
        assert writer.offset == offset
        for start in range(offset, min(offset + step, len(data)), 1 << 20):
            writer.write(data[start : min(start + (1 << 20), offset + step)])
        offset, state = writer.offset, writer.state()
        writer.close()
    assert offset == len(data)
    assert store.holds("large")
    assert {session for session, _ in store.uploads()} == {"large"}
    store = make_store()
    store.commit("large", store.writer("large", offset, "sha256", state), digest(data))
    assert read(store, digest(data)) == data
    assert not store.holds("large")
    assert list(store.uploads()) == []


def test_trash_of_many(store: BlobStore) -> None:
    names = [digest(bytes([number])) for number in range(30)]
    for number, name in enumerate(names):
        store.put(name, bytes([number]))
    store.trash_all([*names, digest(b"absent")])
    assert list(store.blobs()) == []
    assert all(store.restore(name) for name in names[:3])
    assert {blob.digest for blob in store.blobs()} == set(names[:3])
    assert store.empty_trash(-2) == 27


def test_quarantine_is_out_of_sight_and_nothing_brings_it_back(store: BlobStore) -> None:
    name = digest(b"bad")
    store.put(name, b"bad")
    store.quarantine(name)
    store.quarantine(name)
    assert store.open(name) is None
    assert store.empty_trash(-2) == 0
    assert not store.restore(name)
    store.put(name, b"bad")
    assert read(store, name) == b"bad"


def test_listing(store: BlobStore) -> None:
    names = {digest(b"a"), digest(b"b", "sha512")}
    store.put(digest(b"a"), b"a")
    store.put(digest(b"b", "sha512"), b"b")
    assert {(blob.digest, blob.size) for blob in store.blobs()} == {(name, 1) for name in names}
    assert all(-5 < blob.age < 120 for blob in store.blobs())
    for name in names:
        assert [blob.digest for blob in store.blobs(str(name)[:9])] == [name]
    assert list(store.blobs("sha256:00")) == []


@pytest.mark.parametrize("session", ["../x", "", "a/b", "a" * 65, ".."])
def test_sessions_are_not_paths(store: BlobStore, session: str) -> None:
    with pytest.raises(ValueError, match="session"):
        store.discard(session)


def test_one_reads_along_while_another_writes(store: BlobStore) -> None:
    assert store.unfinished("s1") is None
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"first" * 100)
    part = store.unfinished("s1")
    if part is None:
        assert store.name.startswith("s3"), "only where unfinished objects cannot be read"
        writer.close()
        return
    try:
        assert part.read_at(0, 10_000) == b"first" * 100
        assert part.read_at(500, 10_000) == b""
        writer.write(b"second" * 100)
        assert part.read_at(500, 10_000) == b"second" * 100
        store.commit("s1", writer, digest(b"first" * 100 + b"second" * 100))
        assert part.read_at(490, 20) == b"firstfirst" + b"secondseco"
        assert store.unfinished("s1") is None
    finally:
        part.close()
