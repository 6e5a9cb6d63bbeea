"""Reading along in an upload: what goes out, and what never does."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from agent.protocol.oci import Digest
from registry.actions.arriving import ArrivingBlob, Crew
from registry.remote.errors import RemoteAway, RemoteBroken
from registry.storage.filesystem import FilesystemStore
from registry.v2 import arriving

MiB = 1 << 20


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FilesystemStore:
    made = FilesystemStore(str(tmp_path))
    monkeypatch.setattr(arriving, "open_store", lambda: made)
    return made


def coming(data: bytes, algorithm: str = "sha256") -> ArrivingBlob:
    return ArrivingBlob(Digest.of(data, algorithm), len(data), "s1", Future())


async def all_of(blob: ArrivingBlob) -> tuple[bytes, Exception | None]:
    """What was sent, and what ended it."""
    sent = b""
    try:
        async for piece in arriving.pieces(blob):
            sent += piece
    except (RemoteBroken, RemoteAway) as error:
        return sent, error
    return sent, None


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_all_goes_out_before_the_fetch_has_ended(store: FilesystemStore, algorithm: str) -> None:
    data = os.urandom(2 * MiB + 5)
    reading = asyncio.ensure_future(all_of(coming(data, algorithm)))
    writer = store.writer("s1", 0, algorithm, None)
    for start in range(0, len(data), 700_000):
        writer.write(data[start : start + 700_000])
        await asyncio.sleep(0)
    assert await asyncio.wait_for(reading, 20) == (data, None)
    writer.close()


async def test_the_last_piece_of_other_bytes_stays_here(store: FilesystemStore) -> None:
    other = os.urandom(2 * MiB)
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(other)
    sent, error = await asyncio.wait_for(all_of(coming(os.urandom(len(other)))), 20)
    assert isinstance(error, RemoteBroken)
    assert sent == other[:MiB]
    writer.close()


async def test_a_fetch_that_fails_ends_the_reading(store: FilesystemStore) -> None:
    data = os.urandom(MiB)
    blob = coming(data)
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(data[:1000])
    pieces = arriving.pieces(blob)
    assert await anext(pieces) == data[:1000]
    blob.done.set_exception(RemoteAway("it went away"))
    with pytest.raises(RemoteAway):
        await anext(pieces)
    writer.close()


async def test_what_another_file_became_is_read_to_the_end(store: FilesystemStore) -> None:
    data = os.urandom(MiB)
    blob = coming(data)
    writer = store.writer("s1", 0, "sha256", None)
    writer.write(data[:1000])
    pieces = arriving.pieces(blob)
    assert await anext(pieces) == data[:1000]
    writer.close()
    store.discard("s1")
    store.put(blob.digest, data)
    blob.done.set_result(None)
    assert data[:1000] + b"".join([piece async for piece in pieces]) == data


async def test_a_blob_that_is_gone_again_ends_the_reading(store: FilesystemStore) -> None:
    blob = coming(b"never stored")
    blob.done.set_result(None)
    sent, error = await all_of(blob)
    assert sent == b""
    assert isinstance(error, RemoteBroken)


def test_a_crew_does_no_more_at_a_time_than_it_has_hands() -> None:
    crew, begun, go_on = Crew("test", 2), threading.Semaphore(0), threading.Event()

    def work() -> None:
        begun.release()
        assert go_on.wait(20)

    def fail() -> None:
        raise RemoteAway("as it should")

    done = [crew.do(work) for _ in range(6)]
    assert [begun.acquire(timeout=20) for _ in range(2)] == [True, True]
    assert not begun.acquire(timeout=0.1), "a third one began"
    go_on.set()
    for each in done:
        each.result(20)
    with pytest.raises(RemoteAway):
        crew.do(fail).result(20)
