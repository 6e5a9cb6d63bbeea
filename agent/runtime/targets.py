"""Places in a new root: opened, or made when absent, below it and nowhere else."""

from __future__ import annotations

import os

from agent.runtime.errors import InvalidConfig
from agent.sys import mountapi as api

ROOT = api.RESOLVE_IN_ROOT | api.RESOLVE_NO_MAGICLINKS


def target_in(root: int, path: bytes, directory: bool, plain: bool = False, follow: bool = True) -> int:
    """O_PATH descriptor of a mount target in the new root, made when absent.

    `plain`: no symbolic link on the way. Not to `follow`: a link at the end is itself the target.
    """
    resolve = ROOT | (api.RESOLVE_NO_SYMLINKS if plain else 0)
    # a directory that only O_NOFOLLOW reaches may be a link: whether the kinds match, move_mount says
    flags = os.O_PATH | (os.O_DIRECTORY if directory and follow else 0) | (0 if follow else os.O_NOFOLLOW)
    try:
        return api.open_in(root, path, flags, resolve)
    except FileNotFoundError:
        pass
    except OSError as error:
        if plain and error.errno in (20, 40):  # ENOTDIR, ELOOP
            raise InvalidConfig(
                f"/{path.decode()} must be mounted on ordinary directory, but in the root filesystem it leads through a link"
            ) from error
        raise
    head, _, name = path.rpartition(b"/")
    parent = directory_in(root, head)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent))
    finally:
        os.close(parent)
    return api.open_in(root, path, flags, resolve)


def directory_in(root: int, path: bytes) -> int:
    """O_PATH descriptor of a directory in the new root; missing parts are made, links stay inside."""
    try:
        return api.open_in(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parts = path.split(b"/")
    current = api.open_in(root, b".", os.O_PATH | os.O_DIRECTORY)
    for count in range(1, len(parts) + 1):
        here = b"/".join(parts[:count])
        try:
            following = api.open_in(root, here, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            os.mkdir(parts[count - 1], 0o755, dir_fd=current)
            following = api.open_in(root, here, os.O_PATH | os.O_DIRECTORY)
        os.close(current)
        current = following
    return current
