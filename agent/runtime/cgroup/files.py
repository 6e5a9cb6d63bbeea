"""Kernel files: one write, one read, errors never lost (a buffered file loses them when the collector closes it)."""

from __future__ import annotations

import os


def write(path: str, value: str | list[str]) -> None:
    """`value`: each of a list is written by itself."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for each in [value] if isinstance(value, str) else value:
            os.write(fd, each.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The whole file; "" when it does not exist."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        chunks = []
        while chunk := os.read(fd, 65536):
            chunks.append(chunk)
    except OSError as error:
        if error.errno == 19:  # ENODEV: the cgroup went away after the open
            return ""
        raise
    finally:
        os.close(fd)
    return b"".join(chunks).decode()


def number(path: str) -> int | None:
    """A file of one number; None when absent; "max" is None too."""
    text = read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def table(path: str) -> dict[str, int]:
    """A file of `key number` lines."""
    found = {}
    for line in read(path).splitlines():
        key, _, value = line.rpartition(" ")
        if value.lstrip("-").isdigit():
            found[key] = int(value)
    return found
