"""An initial ram disk as a newc archive (kernel, Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

from pathlib import Path

DIRECTORY, FILE = 0o040755, 0o100755


def build(files: dict[str, bytes | Path], directories: tuple[str, ...]) -> bytes:
    """`files` by their path without a leading slash; all are executable and root's."""
    entries = [(name, DIRECTORY, b"") for name in directories]
    entries += [(name, FILE, data.read_bytes() if isinstance(data, Path) else data) for name, data in files.items()]
    archive = b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))
    return archive + _entry(0, "TRAILER!!!", 0, b"")


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    links = 2 if mode == DIRECTORY else 1
    # inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), length of the name, checksum
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
