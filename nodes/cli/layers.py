"""One layer as the registry wants it: the compressed blob on disk, and the digest of what is in it.

OCI image-spec, "Layer" and "DiffID": a diff_id hashes the plain tar, a blob's digest the bytes that travel.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from agent.protocol.oci import MEDIA_OCI_LAYER_GZIP, MEDIA_OCI_LAYER_ZSTD, Descriptor, Digest
from controlplane.cli.session import Failure

PIECE = 1 << 20  # bytes read at once
LEVEL = 6  # of gzip
BLOCK = 512  # bytes of a tar's header
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"))
_KEPT = {"gzip": MEDIA_OCI_LAYER_GZIP, "zstd": MEDIA_OCI_LAYER_ZSTD}


@dataclass(frozen=True, slots=True)
class Part:
    """`size` bytes of the file `path` from `offset` on: a blob without a copy of it."""

    path: str
    offset: int
    size: int

    def open(self) -> IO[bytes]:
        """At its first byte; the reader stops after `size`."""
        file = open(self.path, "rb")  # noqa: SIM115  # the caller closes it
        file.seek(self.offset)
        return file

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from `start` on."""
        with self.open() as file:
            file.seek(start, 1)
            left = self.size - start
            while left > 0 and (data := file.read(min(PIECE, left))):
                left -= len(data)
                yield data


@dataclass(frozen=True, slots=True)
class Blob:
    """What travels: its descriptor and where the bytes are."""

    descriptor: Descriptor
    part: Part


@dataclass(frozen=True, slots=True)
class Layer:
    blob: Blob
    diff_id: str


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


def compression(head: bytes) -> str:
    """ "gzip", "zstd", "xz", "bzip2", or "" for none, by the first bytes."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def _decompressor(kind: str) -> Callable[[], _Decompressor]:
    if kind == "gzip":
        return lambda: zlib.decompressobj(wbits=31)
    if kind == "xz":
        import lzma

        return lzma.LZMADecompressor
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor
    try:
        import zstandard
    except ImportError:
        raise Failure("This layer is compressed by zstd, and the Python package zstandard is not installed here.") from None
    return lambda: zstandard.ZstdDecompressor().decompressobj()


def _damage() -> tuple[type[Exception], ...]:
    """What the decompressors raise for bytes that are not theirs: of the modules that are loaded at all."""
    named = (("lzma", "LZMAError"), ("zstandard", "ZstdError"))
    others = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return (zlib.error, OSError, EOFError, *others)


def plain(pieces: Iterator[bytes], kind: str) -> Iterator[bytes]:
    """The bytes without compression; several members after each other are one, as gzip -d has it. Raises Failure."""
    if not kind:
        yield from pieces
        return
    make = _decompressor(kind)
    machine: Any = make()
    fresh = True
    try:
        for data in pieces:
            while data:
                fresh = False
                yield machine.decompress(data)
                data = b""
                if getattr(machine, "eof", False):
                    data, machine, fresh = machine.unused_data, make(), True
                    data = data.lstrip(b"\0")  # gzip: padding after the last member
    except _damage() as error:
        raise Failure(f"The {kind} data is damaged: {error}") from None
    if not fresh and not getattr(machine, "eof", True):
        raise Failure(f"The {kind} data ends too early.")


def tar_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """`pieces` unchanged. Raises Failure when they do not begin as a tar does (POSIX.1-2001, pax: a header's checksum)."""
    head = b""
    for data in pieces:
        if len(head) < BLOCK:
            head += data[:BLOCK]
            if len(head) >= BLOCK:
                _check_header(head[:BLOCK])
        yield data
    if len(head) < BLOCK:
        raise Failure("This is no tar archive of a root file system: it is shorter than one block.")


def _check_header(block: bytes) -> None:
    if not block.strip(b"\0"):
        return  # two blocks of zeros are an empty archive
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise Failure("This is no tar archive of a root file system.") from None


def pack(part: Part, advance: Callable[[int], None] = lambda count: None) -> Layer:
    """A layer from a tar archive, plain or compressed: gzip and zstd stay byte for byte, the rest becomes gzip.

    `advance` hears of the bytes read. Raises Failure when the data is damaged or no tar.
    """
    with part.open() as file:
        kind = compression(file.read(8))
    return _keep(part, kind, advance) if kind in _KEPT else _squeeze(part, kind, advance)


def _keep(part: Part, kind: str, advance: Callable[[int], None]) -> Layer:
    outer = hashlib.sha256()

    def read() -> Iterator[bytes]:
        for data in part.pieces():
            outer.update(data)
            advance(len(data))
            yield data

    inner = hashlib.sha256()
    for data in tar_pieces(plain(read(), kind)):
        inner.update(data)
    descriptor = Descriptor(_KEPT[kind], Digest("sha256", outer.hexdigest()), part.size, {})
    return Layer(Blob(descriptor, part), f"sha256:{inner.hexdigest()}")


def _squeeze(part: Part, kind: str, advance: Callable[[int], None]) -> Layer:
    """Into a file without a name that lives as long as this process."""

    def read() -> Iterator[bytes]:
        for data in part.pieces():
            advance(len(data))
            yield data

    file = tempfile.TemporaryFile(prefix="wharf-layer-")  # noqa: SIM115  # kept open by _HELD
    _HELD.append(file)
    inner, outer = hashlib.sha256(), hashlib.sha256()
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)  # 31: a gzip header without a time, so that equal layers are equal
    for data in tar_pieces(plain(read(), kind)):
        inner.update(data)
        packed = squeeze.compress(data)
        outer.update(packed)
        file.write(packed)
    packed = squeeze.flush()
    outer.update(packed)
    file.write(packed)
    file.flush()
    where = Part(f"/proc/self/fd/{file.fileno()}", 0, file.tell())
    descriptor = Descriptor(MEDIA_OCI_LAYER_GZIP, Digest("sha256", outer.hexdigest()), where.size, {})
    return Layer(Blob(descriptor, where), f"sha256:{inner.hexdigest()}")


_HELD: list[IO[bytes]] = []  # temporary files end with the process
