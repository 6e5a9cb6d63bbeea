"""Whole directory trees that strangers wrote: remove, measure, copy. By descriptors, never through a symbolic link."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from typing import Final

from agent.storage.errors import LayerTooLarge
from agent.sys import fs

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A container may nest directories far deeper than Python may recurse or we may hold descriptors.
_MAX_RECURSION: Final = 128
MAX_WALK_DEPTH: Final = 512
ACCESS_ACL: Final = "system.posix_acl_access"  # acl(5); only directories have the other
DEFAULT_ACL: Final = "system.posix_acl_default"
ACLS: Final = (ACCESS_ACL, DEFAULT_ACL)
_unique = itertools.count()


def open_directory(name: bytes | str, dir_fd: int | None = None) -> int:
    return os.open(name, _DIRECTORY, dir_fd=dir_fd)


def remove(name: bytes, dir_fd: int) -> None:
    """Remove `name` in `dir_fd`, whatever it is and however deep; absent is fine."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM):
            raise
        _remove_directory(name, dir_fd)


def remove_path(path: str) -> None:
    """`remove` by the path of something whose parent directory is ours."""
    directory = open_directory(os.path.dirname(path))
    try:
        remove(os.fsencode(os.path.basename(path)), directory)
    finally:
        os.close(directory)


def _remove_directory(name: bytes, dir_fd: int) -> None:
    pending = [name]
    while pending:
        current = pending.pop()
        _empty(current, dir_fd, dir_fd, pending, 0)
        os.rmdir(current, dir_fd=dir_fd)


def _empty(name: bytes, dir_fd: int, top_fd: int, parked: list[bytes], depth: int) -> None:
    """Remove all children; what lies too deep is moved beside the top and noted in `parked`."""
    fd = open_directory(name, dir_fd)
    try:
        for child in _names(fd):
            try:
                os.unlink(child, dir_fd=fd)
                continue
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.EPERM):
                    raise
            if depth >= _MAX_RECURSION:
                parking = b".wharf-deep-%d-%d" % (os.getpid(), next(_unique))
                os.rename(child, parking, src_dir_fd=fd, dst_dir_fd=top_fd)
                parked.append(parking)
            else:
                _empty(child, fd, top_fd, parked, depth + 1)
                os.rmdir(child, dir_fd=fd)
    finally:
        os.close(fd)


def _names(fd: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(fd)]


def walk(root_fd: int, path: bytes = b"", depth: int = 0) -> Iterator[tuple[bytes, bytes, int, os.stat_result]]:
    """Every entry below, sorted, parents first: (path, name, fd of its directory, lstat). The fd is valid until the next step."""
    if depth > MAX_WALK_DEPTH:
        raise LayerTooLarge(f"directories are nested deeper than {MAX_WALK_DEPTH}", limit="depth")
    for name in sorted(_names(root_fd)):
        info = os.lstat(name, dir_fd=root_fd)
        below = path + b"/" + name if path else name
        yield below, name, root_fd, info
        if stat.S_ISDIR(info.st_mode):
            fd = open_directory(name, root_fd)
            try:
                yield from walk(fd, below, depth + 1)
            finally:
                os.close(fd)


def disk_usage(path: str) -> int:
    """Bytes of disk that a tree occupies; a file with several names counts once. Depth beyond the limit is not counted."""
    seen: set[tuple[int, int]] = set()
    total = 0
    stack = [os.fsencode(path)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):  # gone meanwhile, or deeper than a path can say
                        continue
                    raise
                if info.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                    if (info.st_dev, info.st_ino) in seen:
                        continue
                    seen.add((info.st_dev, info.st_ino))
                total += info.st_blocks * 512
                if entry.is_dir(follow_symlinks=False) and len(entry.path) < 4000:
                    stack.append(entry.path)
    return total


def xattrs(path: str | int) -> dict[str, bytes]:
    """Extended attributes by name; empty where the file system or the kind of file has none. Never follows a link."""
    try:
        follow = isinstance(path, int)
        return {name: os.getxattr(path, name, follow_symlinks=follow) for name in os.listxattr(path, follow_symlinks=follow)}
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENODATA):
            return {}
        raise


def is_portable(name: str) -> bool:
    """Whether an extended attribute belongs in a layer: trusted.*, other security.* and overlayfs' own speak to this kernel, not
    to a container. Access control lists are kept as umoci keeps them; containerd and Docker write none, and take what they
    read."""
    return (name.startswith("user.") and not name.startswith("user.overlay.")) or name in ("security.capability", *ACLS)


def fd_path(dir_fd: int, name: bytes) -> str:
    """A path to `name` in `dir_fd` for calls that take no descriptor pair (lsetxattr); the last component is not followed."""
    return f"/proc/self/fd/{dir_fd}/{os.fsdecode(name)}"


def copy_attributes(source: str, target: str, info: os.stat_result) -> None:
    """Owner, mode, extended attributes and times of one entry onto another; neither path's last component is followed."""
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        os.chmod(target, stat.S_IMODE(info.st_mode))
    for name, value in xattrs(source).items():
        os.setxattr(target, name, value, follow_symlinks=False)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


def copy(source: str, target: str) -> None:
    """Copy a tree into the new directory `target`: hard links, holes, xattrs, fifos and sockets kept.

    Extents are shared where the file system can.
    """
    os.mkdir(target, 0o700)
    links: dict[tuple[int, int], bytes] = {}
    directories: list[tuple[str, str, os.stat_result]] = []
    source_fd, target_fd = open_directory(source), open_directory(target)
    try:
        for path, name, dir_fd, info in walk(source_fd):
            place = f"/proc/self/fd/{target_fd}/{os.fsdecode(path)}"
            if _copied_as_link(path, info, links, target_fd):
                continue
            _copy_entry(name, dir_fd, info, path, target_fd)
            if stat.S_ISDIR(info.st_mode):
                directories.append((f"{source}/{os.fsdecode(path)}", place, info))
            else:
                copy_attributes(fd_path(dir_fd, name), place, info)
        # Creating children changed the directories' times; deepest first, so that a parent comes after its own changes.
        for original, place, info in reversed(directories):
            copy_attributes(original, place, info)
        copy_attributes(source, target, os.lstat(source))
    finally:
        os.close(source_fd)
        os.close(target_fd)


def _copied_as_link(path: bytes, info: os.stat_result, links: dict[tuple[int, int], bytes], target_fd: int) -> bool:
    if info.st_nlink < 2 or stat.S_ISDIR(info.st_mode):
        return False
    key = (info.st_dev, info.st_ino)
    if key in links:
        os.link(links[key], path, src_dir_fd=target_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        return True
    links[key] = path
    return False


def _copy_entry(name: bytes, dir_fd: int, info: os.stat_result, path: bytes, target_fd: int) -> None:
    if stat.S_ISDIR(info.st_mode):
        os.mkdir(path, 0o700, dir_fd=target_fd)
    elif stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=dir_fd), path, dir_fd=target_fd)
    elif stat.S_ISREG(info.st_mode):
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target_fd)
        try:
            fs.copy_data(source, target, info.st_size)
        finally:
            os.close(source)
            os.close(target)
    else:
        os.mknod(path, info.st_mode, info.st_rdev, dir_fd=target_fd)
