"""Durable small files."""

from __future__ import annotations

import os


def write_durable(path: str | os.PathLike[str], data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that after a crash either the old or the new content is there, whole (rename(2), fsync(2)).

    Raises OSError; the old content is then untouched.
    """
    target = os.fspath(path)
    directory = os.path.dirname(target) or "."
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
    sync_directory(directory)


def sync_directory(path: str) -> None:
    """Make renames and unlinks in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
