"""Cgroup directories: made, listed, removed."""

from __future__ import annotations

import os


def exists(path: str) -> bool:
    return os.access(path, os.F_OK)


def make(directory: str) -> bool:
    """With its parents. False if it is there already."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)
    return True


def below(top: str) -> list[str]:
    """`top` and all directories in it, parents first."""
    found = [top]
    for directory in found:
        try:
            with os.scandir(directory) as entries:
                found.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            continue
    return found


def remove(top: str) -> bool:
    """`top` and all below it. False if one is busy."""
    try:
        os.rmdir(top)  # the usual case: no children
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass  # has children, or is busy
    try:
        for directory in reversed(below(top)):
            os.rmdir(directory)
        return True
    except FileNotFoundError:
        return not exists(top)
    except OSError:
        return False
