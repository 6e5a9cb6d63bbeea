"""Compressed streams in, bounded plain chunks out: gzip (multi-member), zstd, xz, bzip2 and plain tar, told by their magic.

A bomb is caught while it expands: every step yields at most `CHUNK` bytes before the limits are checked again.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import zstandard

from agent.storage.errors import LayerInvalid, LayerTooLarge
from agent.storage.limits import Limits

CHUNK: Final = 1 << 20
_INPUT: Final = 256 << 10
Read = Callable[[int], bytes]


class Counted:
    """A reader that counts and observes what passes: `read(n)` as of a raw file, `seen` bytes so far."""

    def __init__(self, read: Read, observe: Callable[[bytes], None] | None = None, head: bytes = b"") -> None:
        self._read = read
        self._observe = observe
        self._head = head
        self.seen = len(head)

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head, b""
            return data
        data = self._read(size if size > 0 else _INPUT)
        self.seen += len(data)
        if self._observe:
            self._observe(data)
        return data


def sniff(head: bytes) -> str:
    """Name of the compression that `head` (>= 6 bytes) begins: gzip, zstd, xz, bzip2 or "none"."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    # zstd frames may be preceded by skippable frames 0x184D2A50-5F (RFC 8878, 3.1.2).
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith(b"BZh"):
        return "bzip2"
    return "none"


def plain_chunks(read: Read, limits: Limits, observe: Callable[[bytes], None] | None = None) -> Iterator[bytes]:
    """Decompress what `read` gives; `observe` sees every compressed byte once, to the very end.

    Raises `LayerTooLarge` (limit "bytes" or "ratio") and `LayerInvalid` (rule "compression") on damaged or truncated data.
    """
    head = b""
    while len(head) < 6 and (more := read(_INPUT)):
        head += more
    if observe and head:
        observe(head)
    source = Counted(read, observe, head)
    kind = sniff(head)
    total = 0
    try:
        for chunk in _DECODERS[kind](source, limits):
            total += len(chunk)
            _guard(total, source.seen, kind, limits)
            yield chunk
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise LayerInvalid(f"the layer's {kind} data is damaged: {error}", rule="compression") from error
    while source.read(_INPUT):  # what a decoder leaves unread still belongs to the digest
        pass


def _guard(total: int, consumed: int, kind: str, limits: Limits) -> None:
    if total > limits.max_bytes:
        raise LayerTooLarge(f"the layer unpacks to more than {limits.max_bytes} bytes", limit="bytes")
    if kind != "none" and total > limits.ratio_slack and total > limits.ratio * max(consumed, 1):
        raise LayerTooLarge(
            f"the layer expands more than {limits.ratio}:1, as decompression bombs do; push it uncompressed if it is genuine",
            limit="ratio",
        )


def _plain(source: Counted, limits: Limits) -> Iterator[bytes]:
    while data := source.read(CHUNK):
        yield data


def _gzip(source: Counted, limits: Limits) -> Iterator[bytes]:
    data = source.read()
    while True:
        decoder = zlib.decompressobj(wbits=31)
        while not decoder.eof:
            if not data:
                data = source.read()
                if not data:
                    raise EOFError("it ends in the middle of a gzip member")
            yield decoder.decompress(data, CHUNK)
            data = decoder.unconsumed_tail
        data = decoder.unused_data or source.read()
        # Zero padding after the last member is what gzip(1) tolerates; anything else has to be another member.
        while data and not data.strip(b"\0"):
            data = source.read()
        if not data:
            return


def _staged(new: Callable[[], Any], name: str) -> Callable[[Counted, Limits], Iterator[bytes]]:
    def decode(source: Counted, limits: Limits) -> Iterator[bytes]:
        decoder = new()
        data = source.read()
        while data:
            yield decoder.decompress(data, CHUNK)
            while not decoder.eof and not decoder.needs_input:
                yield decoder.decompress(b"", CHUNK)
            data = source.read() if not decoder.eof else decoder.unused_data or source.read()
            if decoder.eof and data:
                decoder = new()
        if not decoder.eof:
            raise EOFError(f"it ends in the middle of the {name} stream")

    return decode


def _zstd(source: Counted, limits: Limits) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=limits.zstd_window)
    # A last frame that is cut short looks like the end here; digests and the tar reader's own end check catch it.
    with decoder.stream_reader(source, read_across_frames=True, closefd=False) as reader:  # type: ignore[arg-type]  # only reads
        while chunk := reader.read(CHUNK):
            yield chunk


_DECODERS: Final = {
    "none": _plain,
    "gzip": _gzip,
    "zstd": _zstd,
    "xz": _staged(lambda: lzma.LZMADecompressor(memlimit=128 << 20), "xz"),
    "bzip2": _staged(bz2.BZ2Decompressor, "bzip2"),
}
