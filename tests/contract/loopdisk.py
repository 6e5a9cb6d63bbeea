"""File systems of our own in a file, for as long as a test needs them: loop device and mount go again, whatever happens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.sys import mountapi, programs

FORMATS = {"btrfs": ("-q",), "xfs": ("-q",), "ext4": ("-q", "-F")}


def missing(kind: str) -> str:
    """Why this machine cannot make such a file system, "" when it can."""
    if programs.find(f"mkfs.{kind}") is None:
        return f"needs mkfs.{kind}"
    with open("/proc/filesystems", encoding="ascii") as file:
        known = file.read().split()
    if kind not in known:
        return f"needs a kernel with {kind}"
    return "" if os.path.exists("/dev/loop-control") else "needs loop devices"


@contextmanager
def disk(kind: str, image: Path, size: int, *flags: bytes) -> Iterator[Path]:
    """A file system of `size` bytes, in the sparse file `image`, mounted with `flags`; yields its root directory beside it."""
    with open(image, "wb") as file:
        file.truncate(size)
    tool(f"mkfs.{kind}", *FORMATS[kind], str(image))
    with loop_device(image) as device:
        root = image.with_suffix(".mnt")
        root.mkdir()
        params: list[tuple[int, bytes, bytes | None, int]] = [(mountapi.FSCONFIG_SET_STRING, b"source", device.encode(), 0)]
        params += [(mountapi.FSCONFIG_SET_FLAG, flag, None, 0) for flag in flags]
        mount = mountapi.new_filesystem(kind.encode(), params, 0)
        try:
            mountapi.attach_at(mount, bytes(root))
        finally:
            os.close(mount)
        try:
            yield root
        finally:
            mountapi.unmount(bytes(root))
            root.rmdir()
    image.unlink()


@contextmanager
def loop_device(image: Path, *options: str) -> Iterator[str]:
    device = tool("losetup", "--find", "--show", *options, str(image)).strip()
    try:
        yield device
    finally:
        tool("losetup", "--detach", device)


def attached(below: Path) -> set[str]:
    """The loop devices whose files are below that directory: others are another process's."""
    lines = tool("losetup", "--list", "--raw", "--noheadings", "--output", "NAME,BACK-FILE").splitlines()
    return {name for name, _, file in (line.partition(" ") for line in lines) if Path(file).is_relative_to(below)}


def tool(name: str, *arguments: str) -> str:
    path = programs.find(name)
    assert path, f"{name} is not installed"
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout
