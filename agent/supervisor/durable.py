"""Files that are whole or absent: tmp, fsync, rename, fsync of the directory."""

from __future__ import annotations

import os

from agent.supervisor import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write(path: str, value: Any, *, sync: bool = True) -> None:
    """Replace the JSON file at `path` atomically (mode 0600).

    sync=False leaves out the fsyncs: the file still survives our own kill -9 (the page cache does), only not a power loss. Use it
    for what a reboot makes meaningless, such as a pid.
    """
    tmp = path + ".tmp"
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, jsontext.dumps(value))
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(tmp, path)
    if sync:
        sync_directory(os.path.dirname(path))


def read(path: str) -> Any | None:
    """The JSON value at `path`; None when there is no such file. Raises InvalidJson for a damaged one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return jsontext.loads(read_all(fd))
    finally:
        os.close(fd)


def read_unsynced(path: str) -> Any | None:
    """The same of what was written with sync=False: None also for a file that a power cut left empty or damaged."""
    try:
        return read(path)
    except jsontext.InvalidJson:
        return None


def read_all(fd: int, limit: int = 64 << 20) -> bytes:
    """Everything from the start of a regular file, at most `limit` bytes."""
    return os.pread(fd, min(os.fstat(fd).st_size, limit), 0)


def sync_file(path: str) -> None:
    """Make the contents of a file durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make renames and new names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Remove a directory of ours with all below it; nothing when it is absent. Symlinks are not followed."""
    try:
        entries = list(os.scandir(path))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
