"""Device nodes of a layer: fifos while the helper process unpacks, since it may make no devices, then made what they are by us.

What the helper says is not believed: a path may lead nowhere outside the layer's directory, and only a fifo is replaced.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Any, Final

from agent.storage.errors import ExtractionFailed
from agent.sys import fs

_KINDS: Final = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}
MAX_MAJOR, MAX_MINOR = 0xFFF, 0xFFFFF  # what the kernel's dev_t holds


@dataclass(frozen=True, slots=True)
class Device:
    """A node to make. `path` is relative to the layer; `kind` is "c" or "b"."""

    path: bytes
    kind: str
    major: int
    minor: int

    @property
    def is_whiteout(self) -> bool:
        """To overlayfs this is no device, but says that the name is not there."""
        return self.kind == "c" and self.major == self.minor == 0

    @classmethod
    def parse(cls, item: Any) -> Device:
        """From the helper's answer: [path as latin-1, kind, major, minor]. Raises `ExtractionFailed`."""
        try:
            path, kind, major, minor = item
            device = cls(path.encode("latin-1"), kind, int(major), int(minor))
        except (AttributeError, TypeError, ValueError):
            raise ExtractionFailed(f"the extraction helper names {item!r}, which is no device") from None
        if kind not in _KINDS or not (0 <= device.major <= MAX_MAJOR and 0 <= device.minor <= MAX_MINOR) or device.is_whiteout:
            raise ExtractionFailed(f"the extraction helper names {item!r}, which is no device that can be made")
        return device


def make(directory: str, devices: tuple[Device, ...]) -> None:
    """Put the devices where their fifos are. Owners, modes, times, hard links among them and the directories' times stay."""
    if not devices:
        return
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    made: dict[int, bytes] = {}  # by the fifo's inode
    try:
        for device in devices:
            head, _, name = device.path.rpartition(b"/")
            parent = fs.open_beneath(root, head, os.O_RDONLY | os.O_DIRECTORY)
            try:
                before = os.fstat(parent)
                _replace(root, parent, name, device, made)
                os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
            finally:
                os.close(parent)
    finally:
        os.close(root)


def _replace(root: int, parent: int, name: bytes, device: Device, made: dict[int, bytes]) -> None:
    info = os.lstat(name, dir_fd=parent)
    if not stat.S_ISFIFO(info.st_mode):
        raise ExtractionFailed(f"{device.path!r} was to become a device, but is no fifo")
    os.unlink(name, dir_fd=parent)
    if info.st_ino in made:
        os.link(made[info.st_ino], name, src_dir_fd=root, dst_dir_fd=parent, follow_symlinks=False)
        return
    # closed to all until its owner is right
    os.mknod(name, _KINDS[device.kind], os.makedev(device.major, device.minor), dir_fd=parent)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=parent, follow_symlinks=False)
    os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=parent)  # made by us in a directory that only we write: no link
    os.utime(name, ns=(info.st_mtime_ns, info.st_mtime_ns), dir_fd=parent, follow_symlinks=False)
    if info.st_nlink > 1:
        made[info.st_ino] = device.path
