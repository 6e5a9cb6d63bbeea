"""One layer as the registry wants it: the compressed blob on disk, and the digest of what is in it.

OCI image-spec, "Layer" and "DiffID": a diff_id hashes the plain tar, a blob's digest the bytes that travel.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from agent.protocol.oci import MEDIA_OCI_LAYER, MEDIA_OCI_LAYER_GZIP, MEDIA_OCI_LAYER_ZSTD, Descriptor, Digest
from controlplane.cli.session import Failure

PIECE = 1 << 20  # bytes read at once
LEVEL = 6  # of gzip
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
    except Failure:
        raise
    except Exception as error:
        if type(error).__name__ not in {"error", "LZMAError", "OSError", "ZstdError", "EOFError"}:
            raise
        raise Failure(f"The {kind} data is damaged: {error}") from None
    if not fresh and not getattr(machine, "eof", True):
        raise Failure(f"The {kind} data ends too early.")


def check_tar(head: bytes) -> None:
    """Raises Failure when the first 512 bytes are no tar header (POSIX.1-2001 pax: its checksum)."""
    if not head.strip(b"\0"):
        return  # two blocks of zeros are an empty archive
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise Failure("This is no tar archive of a root file system.") from None


def pack(part: Part, advance: Callable[[int], None] = lambda count: None) -> Layer:
    """A layer from a tar archive, plain or compressed. gzip and zstd stay byte for byte; the rest becomes gzip, in a file
    without a name that lives as long as this process. Raises Failure."""
    with part.open() as file:
        kind = compression(file.read(8))
    inner, outer = hashlib.sha256(), hashlib.sha256()
    keep = kind in _KEPT
    packed: IO[bytes] | None = None
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)  # 31: a gzip header without a time, so that equal layers are equal

    def store(data: bytes) -> None:
        nonlocal size
        if packed is not None:
            packed.write(data)
        outer.update(data)
        size += len(data)

    def source() -> Iterator[bytes]:
        for data in part.pieces():
            if keep:
                store(data)
            advance(len(data))
            yield data

    size = 0
    if not keep:
        packed = tempfile.TemporaryFile(prefix="wharf-layer-")  # noqa: SIM115  # kept open by _HELD
        _HELD.append(packed)
    head = b""
    for data in plain(source(), kind):
        if len(head) < 512:
            head += data[:512]
            if len(head) >= 512:
                check_tar(head)
        inner.update(data)
        if not keep:
            store(squeeze.compress(data))
    if len(head) < 512:
        raise Failure("This is no tar archive of a root file system: it is shorter than one block.")
    if packed is not None:
        store(squeeze.flush())
        packed.flush()
    where = part if packed is None else Part(f"/proc/self/fd/{packed.fileno()}", 0, size)
    descriptor = Descriptor(_KEPT.get(kind, MEDIA_OCI_LAYER_GZIP), Digest("sha256", outer.hexdigest()), size, {})
    return Layer(Blob(descriptor, where), f"sha256:{inner.hexdigest()}")


_HELD: list[IO[bytes]] = []  # temporary files end with the process


def media_type_of(head: bytes) -> str:
    """A layer's media type by its first bytes."""
    return _KEPT.get(compression(head), MEDIA_OCI_LAYER)
