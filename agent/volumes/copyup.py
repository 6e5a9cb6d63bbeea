"""What an image has at a volume's mount point, copied into the volume the first time it is used, as Docker does."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from agent.storage import trees
from agent.storage.detached import device_opened
from agent.sys import fuse, mountapi
from agent.sys.mount import Mount

_ATTRIBUTES = mountapi.MOUNT_ATTR_RDONLY | mountapi.MOUNT_ATTR_NOSUID | mountapi.MOUNT_ATTR_NODEV
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


@contextmanager
def merged(rootfs: list[Mount]) -> Iterator[int]:
    """A descriptor of a root file system that is mounted nowhere, for the time of the block; overlays without the upper layer."""
    root = rootfs[0]
    lowers = [os.fsencode(option.removeprefix("lowerdir=")) for option in root.options if option.startswith("lowerdir=")]
    if not lowers and root.type != "bind":
        with device_opened(root) as fd:
            yield fd
        return
    if len(lowers) < 2:
        fd = trees.open_directory(lowers[0] if lowers else root.source)
    elif root.type == "overlay":
        steps: list[tuple[int, bytes, bytes | None, int]] = [
            (mountapi.FSCONFIG_SET_STRING, b"lowerdir+", path, 0) for path in lowers
        ]
        fd = mountapi.new_filesystem(b"overlay", steps, _ATTRIBUTES)
    else:
        fd = fuse.overlay(lowers, [], _ATTRIBUTES)
    try:
        yield fd
    finally:
        os.close(fd)


def copy_from(rootfs: list[Mount], target: str, into: str) -> bool:
    """Copy the directory `target` of a root file system to the new directory `into`; False when the image has none there.

    `target` is resolved as if the root file system were "/", so that a link in the image cannot lead to the node's files.
    """
    with merged(rootfs) as root:
        try:
            fd = mountapi.open_in(root, os.fsencode(target), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise
        try:
            trees.copy(f"/proc/self/fd/{fd}/.", into)
        finally:
            os.close(fd)
        return True
