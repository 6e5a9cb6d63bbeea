from __future__ import annotations

import errno
from types import SimpleNamespace

from agent.supervisor.remains import Remains


class BusyCgroup:
    """The kernel holds it for some attempts more."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1

    def remove(self) -> None:
        self.times -= 1
        if self.times >= 0:
            raise OSError(errno.EBUSY, "busy")


def test_another_run_waits_until_the_old_cgroup_is_gone() -> None:
    """What is cloned into a cgroup that was killed dies at once."""
    cgroup = BusyCgroup(3)
    Remains(SimpleNamespace(cgroup=cgroup), lambda: None).clear()  # type: ignore[arg-type]  # all that it asks of a container
    assert cgroup.times == -1
    assert cgroup.kills == 3
