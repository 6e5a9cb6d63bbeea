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

    def usable(self, path: str) -> Hierarchies:
        """Those in which the calling user may make the cgroup `path`, or has it."""

        def mine(point: str) -> bool:
            return os.access(_deepest(point + path), os.W_OK, effective_ids=True)

        v1 = {name: point for name, point in self.v1.items() if mine(point)}
        v2 = self.v2 if self.v2 and mine(self.v2) else None
        return Hierarchies(v1, v2, self.v2_controllers if v2 else frozenset())

    def may_enter(self, path: str) -> bool:
        """Whether the calling user may start a process in his cgroup `path`: on v2 the cgroup that holds both this one and where
        he is now must be his, too (cgroups(7), "delegation containment")."""
        if self.v2 is None:
            return bool(self.v1)
        shared = os.path.commonpath((own_path(), path)).rstrip("/")
        return os.access(f"{self.v2}{shared}/cgroup.procs", os.W_OK, effective_ids=True)


def own_path() -> str:
    """The caller's cgroup below v2's mount point."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        return next((line.rstrip("\n")[3:] for line in lines if line.startswith("0::")), "/")


def _deepest(path: str) -> str:
    """`path`, or the nearest directory above it that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


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
