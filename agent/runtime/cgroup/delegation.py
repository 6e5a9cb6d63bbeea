"""Cgroups in other hands than root's: a container that may manage its own (runtime-spec config-linux.md, "Cgroup ownership"), a
user to whom a part of the tree was given."""

from __future__ import annotations

import os

from agent.runtime.cgroup import files
from agent.runtime.cgroup.detect import hierarchies, own_path
from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.plan import Plan

DELEGATE = "/sys/kernel/cgroup/delegate"
# where a kernel does not say (before 4.15)
ALWAYS = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def owner(plan: Plan) -> int | None:
    """The host's uid of the container's user, if the cgroup is to be its own: the container sees it as its root, may write to it,
    and its user is another one outside."""
    writable = any(step.kind == "cgroup" and not step.attr_set & api.MOUNT_ATTR_RDONLY for step in plan.mounts)
    if not (writable and plan.new_cgroup and plan.new_user):
        return None
    for line in plan.uid_map.splitlines():
        inside, outside, size = (int(word) for word in line.split())
        if inside <= plan.process.uid < inside + size:
            return int(outside + plan.process.uid - inside)
    return None


def give(directory: str, uid: int) -> None:
    """The directory and the files that the kernel says are for a delegate, so that limits stay the host's."""
    os.chown(directory, uid, -1)
    for name in files.read(DELEGATE).split() or ALWAYS:
        try:
            os.chown(f"{directory}/{name}", uid, -1, follow_symlinks=False)
        except FileNotFoundError:
            pass  # of a controller that is not enabled here


def parents() -> list[str]:
    """Where an ordinary user's containers may have cgroups, the best first: beside his own, for a cgroup that holds processes
    can hand no controller down; or in it."""
    if hierarchies().v2 is None:
        return ["/wharf-runtime"]
    own = own_path().rstrip("/")
    return list(dict.fromkeys((os.path.dirname(own).rstrip("/"), own)))
