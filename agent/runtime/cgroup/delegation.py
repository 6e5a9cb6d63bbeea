"""Cgroups in other hands than root's: one that its container may manage, a part of the tree that was given to a user.

Runtime-spec config-linux.md, "Cgroup ownership"; kernel admin-guide/cgroup-v2.rst, "Delegation".
"""

from __future__ import annotations

import os

from agent.runtime.cgroup import files
from agent.runtime.cgroup.detect import hierarchies, own_path

DELEGATE = "/sys/kernel/cgroup/delegate"
# where a kernel does not say (before 4.15)
ALWAYS = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


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
