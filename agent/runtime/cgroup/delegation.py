"""A cgroup that its container may manage (runtime-spec config-linux.md, "Cgroup ownership")."""

from __future__ import annotations

import os

from agent.runtime.cgroup import files

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
