"""Mount what a graph driver hands out, with the runtime's own code, for the time of a `with` block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from agent.runtime import mounts as runtime_mounts
from agent.runtime import rootfs
from agent.sys import mountapi
from agent.sys.mount import Mount


@contextmanager
def mounted(mounts: list[Mount], target: str) -> Iterator[str]:
    """The one mount of a root file system, attached to `target`."""
    (mount,) = mounts
    assert mount.target == ""
    os.makedirs(target, exist_ok=True)
    detached = rootfs.root_filesystem(runtime_mounts.from_storage(mount))
    try:
        mountapi.attach_at(detached, target.encode())
    finally:
        os.close(detached)
    try:
        yield target
    finally:
        mountapi.unmount(target.encode())
