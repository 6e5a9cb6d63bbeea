"""Reading an image archive by member name: a tar file (compressed or not) or a directory. Nothing is ever unpacked to disk."""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Iterator
from typing import IO, Final, Protocol

from agent.images.errors import ArchiveInvalid
from agent.storage import compression, tarread
from agent.storage.errors import LayerInvalid, LayerTooLarge
from agent.storage.limits import Limits
from agent.storage.trees import open_directory
from agent.sys import fs

_PIECE: Final = 1 << 20
MAX_DOCUMENT: Final = 4 << 20
# An image archive holds a few files a layer; what has more is something else.
_LIMITS: Final = Limits(max_entries=100_000, max_depth=16)


class Bundle(Protocol):
    def has(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes:
        """A small document; `ArchiveInvalid` when absent or larger than 4 MiB."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class TarBundle:
    """A tar file, indexed in one pass. Old `docker save` archives name a repeated layer by a symbolic link: followed inside."""

    def __init__(self, file: IO[bytes], scratch: str) -> None:
        if compression.sniff(os.pread(file.fileno(), 6, 0)) != "none":
            file = _inflated(file, scratch)
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            self._index()
        except BaseException:
            file.close()
            raise

    def _index(self) -> None:
        position = [0]

        def pieces() -> Iterator[bytes]:
            while data := os.pread(self._file.fileno(), tarread.BLOCK, position[0]):
                position[0] += len(data)
                yield data

        reader = _SeekingReader(pieces(), _LIMITS, position)
        try:
            for entry in reader:
                name = posixpath.normpath(entry.name.decode("utf-8", "surrogateescape"))
                if entry.type == tarread.REGULAR and entry.sparse is None:
                    self._places[name] = (position[0], entry.size)
                elif entry.type in (tarread.SYMLINK, tarread.HARDLINK):
                    target = entry.linkname.decode("utf-8", "surrogateescape")
                    base = posixpath.dirname(name) if entry.type == tarread.SYMLINK else ""
                    self._links[name] = posixpath.normpath(posixpath.join(base, target))
        except (LayerInvalid, LayerTooLarge) as error:
            raise ArchiveInvalid(f"the image archive cannot be read: {error.detail}") from error

    def _place(self, name: str) -> tuple[int, int] | None:
        for _ in range(8):
            if name in self._places:
                return self._places[name]
            if name not in self._links:
                return None
            name = self._links[name]
        return None

    def has(self, name: str) -> bool:
        return self._place(posixpath.normpath(name)) is not None

    def read(self, name: str) -> bytes:
        return _document(name, self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        place = self._place(posixpath.normpath(name))
        if place is None:
            raise ArchiveInvalid(f"the image archive lacks {name[:200]!r}")
        offset, left = place
        while left:
            data = os.pread(self._file.fileno(), min(left, _PIECE), offset)
            if not data:
                raise ArchiveInvalid(f"the image archive ends within {name[:200]!r}")
            offset, left = offset + len(data), left - len(data)
            yield data

    def close(self) -> None:
        self._file.close()


class _SeekingReader(tarread.TarReader):
    """The file is at hand: contents are jumped over instead of read. The source yields single blocks: no read-ahead."""

    def __init__(self, pieces: Iterator[bytes], limits: Limits, position: list[int]) -> None:
        super().__init__(pieces, limits)
        self._position = position

    def _skip(self) -> None:
        self._position[0] += self._left + self._padding
        self._left = self._padding = 0


class DirectoryBundle:
    """A directory, never followed out of by a link."""

    def __init__(self, path: str) -> None:
        self._fd = open_directory(path)

    def _open(self, name: str) -> int:
        return fs.open_beneath(self._fd, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK)

    def has(self, name: str) -> bool:
        try:
            os.close(self._open(name))
        except OSError:
            return False
        return True

    def read(self, name: str) -> bytes:
        return _document(name, self.chunks(name))

    def chunks(self, name: str) -> Iterator[bytes]:
        try:
            fd = self._open(name)
        except OSError as error:
            raise ArchiveInvalid(f"the image directory lacks {name[:200]!r}: {error.strerror}") from error
        with open(fd, "rb") as file:
            while data := file.read(_PIECE):
                yield data

    def close(self) -> None:
        os.close(self._fd)


def open_bundle(path: str, scratch: str) -> Bundle:
    """A bundle of the file or directory `path`; `scratch` is a directory for inflating a compressed archive."""
    if os.path.isdir(path):
        return DirectoryBundle(path)
    return TarBundle(open(path, "rb"), scratch)


def _inflated(file: IO[bytes], scratch: str) -> IO[bytes]:
    target = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # lives as long as the bundle
    try:
        with file:
            for chunk in compression.plain_chunks(file.read, Limits()):
                target.write(chunk)
        target.flush()
    except (LayerInvalid, LayerTooLarge) as error:
        target.close()
        raise ArchiveInvalid(f"the image archive cannot be read: {error.detail}") from error
    except BaseException:
        target.close()
        raise
    return target


def _document(name: str, chunks: Iterator[bytes]) -> bytes:
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) > MAX_DOCUMENT:
            raise ArchiveInvalid(f"{name[:200]!r} in the image archive is larger than {MAX_DOCUMENT} bytes")
    return data
