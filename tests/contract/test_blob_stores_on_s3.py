"""What only the driver of S3 does: parts, lost processes, addresses, and errors that say what to do."""

from __future__ import annotations

import contextlib
import random
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from registry.storage.s3.address import Address
from registry.storage.s3.store import S3Store
from registry.storage.store import DigestMismatch, StoreAway, StoreMisconfigured, UploadLost
from tests.contract.test_blob_stores import digest, read
from tests.s3 import CREDENTIALS, S3Server, s3_server

PART = 5 << 20
DATA = random.Random(8).randbytes(2 * PART + 1000)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def store(server: S3Server) -> Iterator[S3Store]:
    with contextlib.closing(S3Store(server.location(server.bucket(), part=5))) as made:
        yield made


def write(store: S3Store, data: bytes, offset: int = 0, state: bytes | None = None) -> Any:
    writer = store.writer("s1", offset, "sha256", state)
    for start in range(offset, len(data), 1 << 20):
        writer.write(data[start : start + (1 << 20)])
    return writer


def test_a_small_blob_is_one_put(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    store.size(digest(b""))  # the client is there
    real = store._bucket.client._make_api_call
    monkeypatch.setattr(store._bucket.client, "_make_api_call", lambda name, args: (calls.append(name), real(name, args))[1])
    store.commit("s1", write(store, b"small"), digest(b"small"))
    store.put(digest(b"tiny"), b"tiny")
    assert calls == ["PutObject", "PutObject"]


@pytest.mark.parametrize("size", [PART + 7, 2 * PART, len(DATA)])
def test_killed_between_completion_and_answer(store: S3Store, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts have become an object, the row says nothing of it: the same request again succeeds."""
    data = DATA[:size]
    writer = write(store, data[:PART])
    offset, state = writer.offset, writer.state()
    writer.close()
    with monkeypatch.context() as dying:
        dying.setattr(store._bucket, "copy", lambda *_names: (_ for _ in ()).throw(SystemExit))
        writer = write(store, data, offset, state)
        with pytest.raises(SystemExit):
            store.commit("s1", writer, digest(data))
        writer.forget()
    assert store.size(digest(data)) is None
    store.commit("s1", write(store, data, offset, state), digest(data))
    assert read(store, digest(data)) == data
    assert list(store.uploads()) == []


def test_killed_after_the_last_byte(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATCH of all bytes, then PUT without any: the object is read again before it becomes the blob."""
    writer = write(store, DATA)
    state = writer.state()
    writer.close()
    with monkeypatch.context() as dying:
        dying.setattr(store._bucket, "copy", lambda *_names: (_ for _ in ()).throw(SystemExit))
        writer = store.writer("s1", len(DATA), "sha256", state)
        with pytest.raises(SystemExit):
            store.commit("s1", writer, digest(DATA))
        writer.forget()
    store.commit("s1", store.writer("s1", len(DATA), "sha256", state), digest(DATA))
    assert read(store, digest(DATA)) == DATA


def test_bytes_of_two_writers_never_become_one_blob(store: S3Store) -> None:
    """A writer that was replaced goes on for a while: parts are named by what is in them."""
    first = write(store, DATA[:PART])
    offset, state = first.offset, first.state()
    first.close()
    old = store.writer("s1", offset, "sha256", state)
    new = store.writer("s1", offset, "sha256", state)
    new.write(DATA[PART : 2 * PART])
    new.write(DATA[2 * PART :])
    old.write(bytes(PART))
    with pytest.raises(UploadLost):
        store.commit("s1", new, digest(DATA))
    assert store.size(digest(DATA)) is None
    old.close()
    new.close()


def test_another_algorithm_is_read_again(store: S3Store) -> None:
    store.commit("s1", write(store, DATA), digest(DATA, "sha512"))
    assert read(store, digest(DATA, "sha512")) == DATA
    with pytest.raises(DigestMismatch):
        store.commit("s1", write(store, DATA), digest(b"other", "sha512"))
    assert list(store.uploads()) == []


def test_lost_state_of_a_large_upload(store: S3Store) -> None:
    writer = write(store, DATA[: PART + 10])
    writer.state()
    writer.close()
    again = write(store, DATA, PART + 10, None)
    store.commit("s1", again, digest(DATA))
    assert read(store, digest(DATA)) == DATA


def test_an_upload_whose_parts_are_gone(store: S3Store) -> None:
    writer = write(store, DATA[:PART])
    offset, state = writer.offset, writer.state()
    writer.close()
    store.discard("s1")
    with pytest.raises(UploadLost):
        store.commit("s1", store.writer("s1", offset, "sha256", state), digest(DATA[:PART]))


def test_a_store_that_was_away_takes_the_same_upload_later(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = write(store, DATA[: PART + 10])
    with monkeypatch.context() as away:
        away.setattr(store._bucket, "complete", lambda *_: (_ for _ in ()).throw(StoreAway("away")))
        with pytest.raises(StoreAway):
            store.commit("s1", writer, digest(DATA[: PART + 10]))
    offset, state = writer.offset, writer.state()
    writer.close()
    store.commit("s1", store.writer("s1", offset, "sha256", state), digest(DATA[: PART + 10]))
    assert read(store, digest(DATA[: PART + 10])) == DATA[: PART + 10]


def test_many_small_chunks_are_gathered(store: S3Store) -> None:
    data, offset, state = DATA[:5000], 0, None
    while offset < len(data):
        writer = store.writer("s1", offset, "sha256", state)
        writer.write(data[offset : offset + 50])
        offset, state = writer.offset, writer.state()
        assert len(writer.session.pieces) <= 32  # type: ignore[attr-defined]  # the S3 writer's
        writer.close()
    store.commit("s1", store.writer("s1", offset, "sha256", state), digest(data))
    assert read(store, digest(data)) == data
    assert list(store.uploads()) == []


def test_a_large_blob_is_copied_in_parts(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.storage.s3.bucket.COPY_WHOLE", PART)
    monkeypatch.setattr("registry.storage.s3.bucket.COPY_PART", PART)
    store.commit("s1", write(store, DATA), digest(DATA))
    store.trash(digest(DATA))
    assert store.restore(digest(DATA))
    assert read(store, digest(DATA)) == DATA


def test_presigned_address(server: S3Server) -> None:
    with contextlib.closing(S3Store(server.location(server.bucket(), redirect=1))) as store:
        store.put(digest(b"direct"), b"direct")
        url = store.location(digest(b"direct"))
        assert url is not None
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.read() == b"direct"
    with contextlib.closing(S3Store(server.location("b"))) as store:
        assert store.location(digest(b"direct")) is None


def test_a_wrong_bucket_is_named(server: S3Server) -> None:
    with contextlib.closing(S3Store(server.location("not-there"))) as store:
        with pytest.raises(StoreMisconfigured, match="no bucket not-there"):
            store.put(digest(b"x"), b"x")
        with pytest.raises(StoreMisconfigured, match="no bucket not-there"):
            list(store.blobs())


def test_no_credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    missing = pytest.raises(StoreMisconfigured, match="AWS_ACCESS_KEY_ID")
    with contextlib.closing(S3Store(server.location("any"))) as store, missing:
        store.put(digest(b"x"), b"x")


def test_nobody_listens() -> None:
    with contextlib.closing(S3Store("s3://bucket?endpoint=http://127.0.0.1:1")) as store, pytest.raises(StoreAway) as refused:
        store.put(digest(b"x"), b"x")
    assert refused.value.retry_after


@pytest.mark.parametrize(
    "location", ["s3://", "s3:///prefix", "s3://key:secret@bucket", "s3://bucket?secret=1", "s3://bucket?part=1", "s3://b?part=x"]
)
def test_addresses_that_are_none(location: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        Address.parse(location)


def test_address() -> None:
    found = Address.parse("s3://my-bucket/a/b/?endpoint=https://s3.example.org:9000&region=eu-1&redirect=1&part=16")
    assert found == Address("my-bucket", "a/b/", "https://s3.example.org:9000", "eu-1", True, 16 << 20)
