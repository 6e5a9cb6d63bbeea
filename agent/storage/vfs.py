"""The vfs driver: every layer and container is a whole tree. Slow, needs nothing of the kernel: the yardstick of the others.

On file systems that share extents (btrfs, xfs) a copy costs metadata only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from agent.storage import trees
from agent.storage.snapshots import LAYER, SnapshotDriver
from agent.sys.mount import Mount


class Vfs(SnapshotDriver):
    name: ClassVar[str] = "vfs"

    @classmethod
    def probe(cls, data_root: str, options: Mapping[str, str]) -> None:
        """Works wherever files can be written."""

    def _start_tree(self, home: str, name: str, parent: str | None, size: int) -> None:
        directory = os.path.join(home, name)
        if parent is None:
            os.mkdir(directory)
            os.chmod(directory, 0o755)  # noqa: S103  # what a root directory has; mkdir would obey the umask
        else:
            trees.copy(os.path.join(parent, LAYER), directory)

    @contextmanager
    def _open(self, home: str, name: str) -> Iterator[str]:
        yield os.path.join(home, name)

    def _mount(self, home: str, name: str, *, read_only: bool) -> Mount:
        return Mount("bind", os.path.join(home, name), "", ("rbind", "ro" if read_only else "rw"))

    def usage(self, container_id: str) -> int:
        """All of the tree: it is a copy of its own, unless the file system shares extents, which is not looked into."""
        self.chain_of(container_id)
        return trees.disk_usage(self.container_path(container_id))
