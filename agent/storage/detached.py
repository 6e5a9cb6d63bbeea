"""Look into a device or dataset that is mounted nowhere: a mount without a place, which vanishes with its descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from agent.sys import fs, mountapi
from agent.sys.mount import Mount


def device_opened(mount: Mount) -> AbstractContextManager[int]:
    """`opened` for a root file system on a device or dataset, as a driver hands it out."""
    return opened(mount.type, mount.source, [option for option in mount.options if option not in ("ro", "rw")])


@contextmanager
def opened(fstype: str, source: str, words: Iterable[str] = ()) -> Iterator[int]:
    """A descriptor of the root directory, for the time of the block; what was written there is durable afterwards.

    `words` are options of the file system, as mount(8) takes them. The caller makes sure that `source` stays.
    """
    params: list[tuple[int, bytes, bytes | None, int]] = [(mountapi.FSCONFIG_SET_STRING, b"source", os.fsencode(source), 0)]
    for word in words:
        key, equals, value = word.encode().partition(b"=")
        command = mountapi.FSCONFIG_SET_STRING if equals else mountapi.FSCONFIG_SET_FLAG
        params.append((command, key, value if equals else None, 0))
    mount = mountapi.new_filesystem(fstype.encode(), params, 0)
    try:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount)  # the mount's own descriptor only names it
        try:
            yield root
            fs.syncfs(root)
        finally:
            os.close(root)
    finally:
        os.close(mount)
