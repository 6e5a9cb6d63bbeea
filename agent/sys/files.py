"""Durable small files."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False  # importing typing costs memory where this module is used early
if TYPE_CHECKING:
    from collections.abc import Callable

_relief: Callable[[], bool] | None = None


def when_full(relief: Callable[[], bool] | None) -> None:
    """`relief()` is called when a durable write meets a full disk; when it made room (True), the write is tried once more."""
    global _relief
    _relief = relief


def write_durable(path: str | os.PathLike[str], data: bytes, mode: int = 0o600, *, more_follows: bool = False) -> None:
    """Replace `path` by `data` so that after a crash either the old or the new content is there, whole (rename(2), fsync(2)).

    Raises OSError; the old content is then untouched. `more_follows`: another write to the same directory comes at once, which
    makes this one's name durable, too.
    """
    _write(path, data, mode)
    if not more_follows:
        sync_directory(os.path.dirname(os.fspath(path)) or ".")


def _write(path: str | os.PathLike[str], data: bytes, mode: int) -> None:
    try:
        _replace(path, data, mode)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or _relief is None or not _relief():
            raise
        _replace(path, data, mode)


def _replace(path: str | os.PathLike[str], data: bytes, mode: int) -> None:
    target = os.fspath(path)
    temporary = f"{target}.tmp.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    os.rename(temporary, target)


def sync_directory(path: str) -> None:
    """Make renames and unlinks in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
