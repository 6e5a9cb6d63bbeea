"""Mount what a graph driver hands out, as the runtime would, for the time of a `with` block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from agent.sys import mountapi
from agent.sys.mount import Mount


@contextmanager
def mounted(mounts: list[Mount], target: str) -> Iterator[str]:
    os.makedirs(target, exist_ok=True)
    done = 0
    try:
        for mount in mounts:
            assert mount.target == ""
            detached = _overlay(mount) if mount.type == "overlay" else _bind(mount)
            mountapi.attach_at(detached, target.encode())
            os.close(detached)
            done += 1
        yield target
    finally:
        for _ in range(done):
            mountapi.unmount(target.encode())


def _overlay(mount: Mount) -> int:
    steps = []
    for option in mount.options:
        key, equals, value = option.partition("=")
        if equals:
            name = b"lowerdir+" if key == "lowerdir" else key.encode()
            steps.append((mountapi.FSCONFIG_SET_STRING, name, value.encode(), 0))
    return mountapi.new_filesystem(b"overlay", steps, mountapi.MOUNT_ATTR_RDONLY if "ro" in mount.options else 0)


def _bind(mount: Mount) -> int:
    source = os.open(mount.source, os.O_PATH | os.O_DIRECTORY)
    try:
        tree = mountapi.clone_tree(source)
    finally:
        os.close(source)
    if "ro" in mount.options:
        mountapi.set_attributes(tree, mountapi.MOUNT_ATTR_RDONLY, 0)
    return tree
