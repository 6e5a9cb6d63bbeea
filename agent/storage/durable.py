"""Small files that survive a crash whole: written beside, synced, renamed, directory synced."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any


def write_json(path: str, data: Any) -> None:
    write(path, json.dumps(data, sort_keys=True).encode())


def write(path: str, data: bytes) -> None:
    _replace(path, data, synced=True)
    sync_directory(os.path.dirname(path))


def replace(path: str, data: bytes) -> None:
    """As `write`, but only our own death is survived, not the machine's: for what a reboot makes void."""
    _replace(path, data, synced=False)


def _replace(path: str, data: bytes, synced: bool) -> None:
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if synced:
                os.fdatasync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def read_json(path: str) -> Any:
    """The document, or None when there is no such file."""
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def remove(path: str) -> bool:
    """True when there was such a file."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep(directory: str) -> None:
    """Remove what an interrupted `write` left."""
    for name in os.listdir(directory):
        if name.endswith(".tmp"):
            remove(os.path.join(directory, name))
