"""The fuse-overlayfs driver: overlay2's layers, stacked by a program instead of the kernel.

The program is started by the runtime together with each container's root (agent.sys.fuse), from the same kind of `Mount` as
overlay2's; it ends with the mount. Layers look the same on disk as overlay2's: run as root, both write the same whiteouts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from agent.storage import trees
from agent.storage.errors import DriverUnsupported
from agent.storage.overlay2 import Overlay2
from agent.sys import fuse
from agent.sys.mount import Mount


class FuseOverlayfs(Overlay2):
    name: ClassVar[str] = "fuse-overlayfs"
    OPTIONS: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def probe(cls, root: str, options: Mapping[str, str]) -> None:
        """Stack two empty directories and look inside."""
        if any(char in root for char in ",:\\"):
            raise DriverUnsupported(
                f"fuse-overlayfs does not work on {root}: its options cannot say a path with a comma, colon or backslash"
            )
        place = os.path.join(root, f".probe-{os.getpid()}")
        try:
            for part in ("lower", "upper", "work"):
                os.makedirs(os.path.join(place, part))
            lower, upper, work = (os.fsencode(os.path.join(place, part)) for part in ("lower", "upper", "work"))
            mount = fuse.overlay([lower], [b"upperdir=" + upper, b"workdir=" + work], 0)
            try:
                os.listdir(f"/proc/self/fd/{mount}/.")
            finally:
                os.close(mount)
        except OSError as error:
            raise DriverUnsupported(f"fuse-overlayfs does not work on this node: {error.strerror or error}") from error
        finally:
            trees.remove_path(place)

    def _container_mounts(self, container_id: str, chain: list[str]) -> list[Mount]:
        return [self._by_program(mount) for mount in super()._container_mounts(container_id, chain)]

    def view(self, chain: list[str]) -> list[Mount]:
        return [self._by_program(mount) for mount in super().view(chain)]

    @staticmethod
    def _by_program(mount: Mount) -> Mount:
        kernel_only = ("redirect_dir=", "metacopy=", "index=")
        options = tuple(option for option in mount.options if not option.startswith(kernel_only))
        # What a container wrote must be in its upper directory at once: `diff` reads there while it runs.
        return Mount(fuse.OVERLAY.decode(), "fuse-overlayfs", "", (*options, "writeback=0"))
