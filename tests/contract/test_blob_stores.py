"""One suite for every blob store driver: a driver is done when `make_store` yields it and this passes."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.protocol.oci import Digest
from registry.storage.filesystem import FilesystemStore
from registry.storage.store import BlobStore, DigestMismatch, StoreFull, UploadBusy

MakeStore = Callable[[], BlobStore]


@pytest.fixture(params=["filesystem"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """A factory: each call opens the same store anew, as another process would."""
    return {"filesystem": lambda: FilesystemStore(str(tmp_path / "store"))}[request.param]


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


def test_one_writer_an_upload(make_store: MakeStore) -> None:
    writer = make_store().writer("s1", 0, "sha256", None)
    writer.write(b"mine")
    with pytest.raises(UploadBusy):
        make_store().writer("s1", 0, "sha256", None)
    writer.close()
    again = make_store().writer("s1", 4, "sha256", None)
    assert again.offset == 4
    again.close()


def test_same_blob_twice(store: BlobStore) -> None:
    store.put(digest(b"x"), b"x")
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(b"x")
    store.commit("s1", writer, digest(b"x"))
    assert read(store, digest(b"x")) == b"x"


@pytest.mark.parametrize("call", ["write", "fdatasync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_whenever_it_shows(store: BlobStore, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """File systems that allocate late refuse as late as at the sync; the upload stays, and goes through once there is room."""

    def refuse(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    data = b"x" * 5000
    with monkeypatch.context() as full:
        full.setattr(os, call, refuse)
        with pytest.raises(StoreFull):
            store.put(digest(data), data)
        with pytest.raises(StoreFull):
            upload(store, data)
    assert store.open(digest(data)) is None
    upload(store, data)
    assert read(store, digest(data)) == data


def upload(store: BlobStore, data: bytes) -> None:
    writer = store.writer("late", 0, "sha256", None)
    try:
        writer.write(data)
        store.commit("late", writer, digest(data))
    finally:
        writer.close()


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
    assert store.empty_trash(-1) == 1
    assert not store.restore(name)


def test_an_open_blob_outlives_its_deletion(store: BlobStore) -> None:
    name = digest(b"still here")
    store.put(name, b"still here")
    blob = store.open(name)
    assert blob is not None
    store.trash(name)
    store.empty_trash(-1)
    assert blob.read_at(6, 4) == b"here"
    blob.close()


def test_listing(store: BlobStore) -> None:
    names = {digest(b"a"), digest(b"b", "sha512")}
    store.put(digest(b"a"), b"a")
    store.put(digest(b"b", "sha512"), b"b")
    assert {name for name, _ in store.blobs()} == names
    assert all(-5 < age < 120 for _, age in store.blobs())


@pytest.mark.parametrize("session", ["../x", "", "a/b", "a" * 65, ".."])
def test_sessions_are_not_paths(store: BlobStore, session: str) -> None:
    with pytest.raises(ValueError, match="session"):
        store.discard(session)


def test_writer_killed_in_mid_write_is_followed_by_another(make_store: MakeStore, tmp_path: Path) -> None:
    """kill -9 frees the upload at once, and only acknowledged bytes stay."""
    program = (
        "import os, sys\n"
        "from registry.storage.filesystem import FilesystemStore\n"
        "writer = FilesystemStore(sys.argv[1]).writer('s1', 0, 'sha256', None)\n"
        "writer.write(b'abc')\n"
        "print('written', flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout == b"written\n", done.stderr
    writer = make_store().writer("s1", 0, "sha256", None)
    assert writer.offset == 0
    writer.write(b"xyz")
    make_store().commit("s1", writer, digest(b"xyz"))
