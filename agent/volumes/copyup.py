"""What an image has at a volume's mount point, copied into the volume the first time it is used, as Docker does."""

from __future__ import annotations

import errno
import os

from agent.storage import trees
from agent.sys import mountapi
from agent.sys.mount import Mount

_ATTRIBUTES = mountapi.MOUNT_ATTR_RDONLY | mountapi.MOUNT_ATTR_NOSUID | mountapi.MOUNT_ATTR_NODEV
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


def merged(rootfs: list[Mount]) -> int:
    """A descriptor of a root file system that is mounted nowhere, seen through its layers, read-only. The caller closes it."""
    root = rootfs[0]
    if root.type != "overlay":
        return trees.open_directory(root.source)
    lowers = [option.removeprefix("lowerdir=") for option in root.options if option.startswith("lowerdir=")]
    if len(lowers) == 1:
        return trees.open_directory(lowers[0])
    steps: list[tuple[int, bytes, bytes | None, int]] = [
        (mountapi.FSCONFIG_SET_STRING, b"lowerdir+", os.fsencode(path), 0) for path in lowers
    ]
    return mountapi.new_filesystem(b"overlay", steps, _ATTRIBUTES)


def copy_from(rootfs: list[Mount], target: str, into: str) -> bool:
    """Copy the directory `target` of a root file system to the new directory `into`; False when the image has none there.

    `target` is resolved as if the root file system were "/", so that a link in the image cannot lead to the node's files.
    """
    root = merged(rootfs)
    try:
        fd = mountapi.open_in(root, os.fsencode(target), os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    finally:
        os.close(root)
    try:
        trees.copy(f"/proc/self/fd/{fd}/.", into)
    finally:
        os.close(fd)
    return True
