"""Which cgroup hierarchies this machine has: v1, v2, or hybrid (each controller is used where it is mounted)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

V1_FLAGS = frozenset(("rw", "ro", "noprefix", "xattr", "clone_children", "none", "cpuset_v2_mode"))


class Hierarchies:
    """`v1`: mount point by controller ("memory", "name=systemd"…). `v2`: mount point or None, governing `v2_controllers`."""

    __slots__ = ("v1", "v2", "v2_controllers")

    def __init__(self, v1: Mapping[str, str], v2: str | None, v2_controllers: frozenset[str]) -> None:
        self.v1 = dict(v1)
        self.v2 = v2
        self.v2_controllers = v2_controllers

    def mount_points(self) -> list[str]:
        """Each hierarchy once; co-mounted controllers share one."""
        points = list(dict.fromkeys(self.v1.values()))
        return [*points, self.v2] if self.v2 else points


_found: Hierarchies | None = None


def hierarchies() -> Hierarchies:
    """Those mounted for this process, read once."""
    global _found
    if _found is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            _found = parse(lines.read())
    return _found


def parse(mountinfo: str) -> Hierarchies:
    """From the text of proc_pid_mountinfo(5)."""
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if not separator:
            continue
        fstype, _, options = after.split(" ", 2)
        point = before.split(" ")[4].replace("\\040", " ")
        if fstype == "cgroup2" and v2 is None:
            v2 = point
        elif fstype == "cgroup":
            for word in options.split(","):
                if word not in V1_FLAGS and not word.startswith("release_agent="):
                    v1.setdefault(word, point)
    return Hierarchies(v1, v2, _v2_controllers(v2))


def _v2_controllers(point: str | None) -> frozenset[str]:
    if point is None:
        return frozenset()
    try:
        with open(os.path.join(point, "cgroup.controllers"), encoding="ascii") as file:
            return frozenset(file.read().split())
    except FileNotFoundError:
        return frozenset()
