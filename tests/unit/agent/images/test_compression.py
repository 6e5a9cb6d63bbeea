"""Bounded decompression: what comes out, and where it stops."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.storage.compression import CHUNK, plain_chunks, sniff
from agent.storage.errors import LayerInvalid, LayerTooLarge
from agent.storage.limits import Limits

Pack = Callable[[bytes], bytes]
PACKERS: dict[str, Pack] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def unpack(data: bytes, limits: Limits | None = None, step: int = 1000) -> tuple[bytes, bytes]:
    """(plain bytes, compressed bytes that were observed), read in small steps."""
    seen = bytearray()
    source = io.BytesIO(data)
    chunks = list(plain_chunks(lambda size: source.read(min(size, step)), limits or Limits(), seen.extend))
    assert all(len(chunk) <= CHUNK for chunk in chunks)
    return b"".join(chunks), bytes(seen)


@pytest.mark.parametrize("kind", PACKERS)
@settings(deadline=None, max_examples=25)
@given(data=st.binary(max_size=5000), step=st.integers(1, 3000))
def test_round_trip(kind: str, data: bytes, step: int) -> None:
    packed = PACKERS[kind](data)
    if kind == "none" and sniff(packed) != "none":
        return
    assert unpack(packed, step=step) == (data, packed)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_several_members(kind: str) -> None:
    packed = b"".join(PACKERS[kind](part) for part in (b"one", b"", b"three" * 1000))
    assert unpack(packed) == (b"one" + b"three" * 1000, packed)


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2"])
def test_a_cut_stream_is_refused(kind: str) -> None:
    packed = PACKERS[kind](os.urandom(3000))
    for length in (len(packed) - 1, len(packed) // 2, 10):
        with pytest.raises(LayerInvalid):
            unpack(packed[:length])


def test_rubbish_after_gzip_is_refused() -> None:
    with pytest.raises(LayerInvalid):
        unpack(gzip.compress(b"x") + b"rubbish")


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_bombs_stop_early(kind: str) -> None:
    packed = PACKERS[kind](bytes(64 << 20))
    with pytest.raises(LayerTooLarge) as caught:
        unpack(packed, Limits(ratio_slack=1 << 20), step=64)
    assert caught.value.extra["limit"] == "ratio"
    with pytest.raises(LayerTooLarge) as caught:
        unpack(packed, Limits(max_bytes=1 << 20))
    assert caught.value.extra["limit"] == "bytes"


def test_plain_bytes_have_no_ratio() -> None:
    data = bytes(2 << 20)
    assert unpack(data, Limits(ratio=0, ratio_slack=0), step=CHUNK)[0] == data


def test_a_failing_disk_is_not_the_archives_fault() -> None:
    def read(size: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        list(plain_chunks(read, Limits()))
