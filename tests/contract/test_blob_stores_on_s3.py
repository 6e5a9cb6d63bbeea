"""What only the driver of S3 does: parts, lost processes, addresses, and errors that say what to do."""

from __future__ import annotations

import contextlib
import random
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from registry.storage.s3 import bucket
from registry.storage.s3.address import Address
from registry.storage.s3.store import S3Store
from registry.storage.s3.writing import AT_ONCE
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
    old.state()  # it has arrived
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


def test_parts_are_under_way_at_once_and_not_more_than_some(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer gathers on while AT_ONCE parts wait for S3, and then waits with them."""
    count, all_here, go_on, waiting = [0], threading.Event(), threading.Event(), threading.Lock()
    real = store._bucket.part

    def part(*arguments: Any) -> str:
        with waiting:
            count[0] += 1
            if count[0] == AT_ONCE:
                all_here.set()
        assert go_on.wait(20)
        return real(*arguments)

    monkeypatch.setattr(store._bucket, "part", part)
    data = random.Random(3).randbytes((AT_ONCE + 1) * PART + 1)
    writer = store.writer("s1", 0, "sha256", None)
    gathering = threading.Thread(target=writer.write, args=(data[-PART - 1 : -1],))
    for number in range(AT_ONCE):
        writer.write(data[number * PART : (number + 1) * PART])
    assert all_here.wait(20)
    gathering.start()
    gathering.join(0.2)
    assert gathering.is_alive(), "one more would be one too many"
    assert count == [AT_ONCE]
    go_on.set()
    gathering.join(60)
    writer.write(data[-1:])
    store.commit("s1", writer, digest(data))
    assert read(store, digest(data)) == data
    assert list(store.uploads()) == []


@pytest.mark.parametrize("begun", [0, 10, PART + 10])
def test_a_part_that_does_not_arrive(store: S3Store, begun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It and those after it do not count, those before it do; the upload goes on from there."""
    data, state = random.Random(4).randbytes(begun + 4 * PART), None
    if begun:
        before = write(store, data[:begun])
        state = before.state()
        before.close()
    real, whole = store._bucket.part, begun // PART

    def part(name: str, upload: str, number: int, body: Any) -> str:
        if number == whole + 2:
            raise StoreAway("away")
        return real(name, upload, number, body)

    with monkeypatch.context() as away:
        away.setattr(store._bucket, "part", part)
        writer = write(store, data, begun, state)
        with pytest.raises(StoreAway):
            writer.state()
    offset, state = writer.offset, writer.state()
    writer.close()
    assert begun < offset <= begun + PART
    store.commit("s1", write(store, data, offset, state), digest(data))
    assert read(store, digest(data)) == data


def test_the_first_part_does_not_arrive(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was noted of the upload before still counts, though the part began with it."""
    before = write(store, DATA[:10])
    state = before.state()
    before.close()
    with monkeypatch.context() as away:
        away.setattr(store._bucket, "part", lambda *_: (_ for _ in ()).throw(StoreAway("away")))
        writer = write(store, DATA, 10, state)
        with pytest.raises(StoreAway):
            writer.state()
    assert writer.offset == 10
    state = writer.state()
    writer.close()
    store.commit("s1", write(store, DATA, 10, state), digest(DATA))
    assert read(store, digest(DATA)) == DATA


def test_an_upload_that_is_dropped_waits_for_its_parts(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that arrives after the abort would stay for ever."""
    entered, ended, real = threading.Event(), [], store._bucket.part

    def part(*arguments: Any) -> str:
        entered.set()
        done = real(*arguments)
        ended.append(done)
        return done

    monkeypatch.setattr(store._bucket, "part", part)
    writer = write(store, DATA[:PART])
    assert entered.wait(20)
    with pytest.raises(DigestMismatch):
        store.commit("s1", writer, digest(b"other"))
    assert len(ended) == 1
    assert list(store.uploads()) == []


@pytest.mark.timeout(60)
def test_many_large_blobs_are_trashed_at_once(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is copied in parts, and waiting for the parts must not take the threads that copy them."""
    for name, value in (("THREADS", 2), ("COPY_WHOLE", PART), ("COPY_PART", PART)):
        monkeypatch.setattr(f"registry.storage.s3.bucket.{name}", value)
    blobs = [bytes([number]) * (PART + 1) for number in range(3)]
    with contextlib.closing(S3Store(server.location(server.bucket(), part=5))) as store:
        for data in blobs:
            store.put(digest(data), data)
        store.trash_all([digest(data) for data in blobs])
        assert [store.size(digest(data)) for data in blobs] == [None] * 3
        assert all(store.restore(digest(data)) for data in blobs)


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
    bucket.session.cache_clear()  # it keeps the credentials that it once found
    missing = pytest.raises(StoreMisconfigured, match="AWS_ACCESS_KEY_ID")
    with contextlib.closing(S3Store(server.location("any"))) as store, missing:
        store.put(digest(b"x"), b"x")
    bucket.session.cache_clear()


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
