"""The sweep of an ended container's cgroup: once, when nobody waits, and never of another run's."""

from __future__ import annotations

from types import SimpleNamespace

from agent.supervisor.loop import Loop
from agent.supervisor.processes import Processes
from agent.supervisor.remains import Remains
from tests.unit.agent.supervisor.test_remains import BusyCgroup


class Swept:
    """A container's remains, and how often its cgroup was removed."""

    def __init__(self, busy: int = 0) -> None:
        self.loop = Loop()
        self.cgroup = BusyCgroup(busy)
        self.removed = 0
        self.context = SimpleNamespace(loop=self.loop, processes=Processes(self.loop))
        self.process: object | None = None
        self.deleting = False
        self.remains = Remains(self, self.gone)  # type: ignore[arg-type]  # all that it asks of a container

    def gone(self) -> None:
        self.removed += 1

    def clear(self) -> None:
        """Before another run."""
        assert list(self.remains.clear()) == []

    def run(self) -> None:
        self.loop.later(0.1, self.loop.stop)
        self.loop.run()
        self.loop.close()


def test_a_deletion_after_the_sweep_makes_no_other_pass() -> None:
    swept = Swept()
    swept.remains.sweep()
    assert (swept.cgroup.times, swept.removed) == (-1, 0)
    swept.deleting = True
    swept.remains.sweep()
    assert (swept.cgroup.times, swept.removed) == (-1, 1)
    swept.loop.close()


def test_two_sweeps_that_are_due_delete_once() -> None:
    """A second deletion could meet another container of that name."""
    swept = Swept(busy=2)
    swept.remains.sweep_later()
    swept.remains.sweep_after(1)
    swept.deleting = True
    swept.remains.sweep()
    swept.run()
    assert swept.removed == 1


def test_another_run_voids_the_sweep_of_the_one_before() -> None:
    swept = Swept()
    swept.remains.sweep_later()
    swept.remains.sweep_after(1)
    swept.clear()
    swept.run()
    assert swept.cgroup.times == -1  # `clear` alone


def test_a_run_after_a_sweep_is_swept_again() -> None:
    swept = Swept()
    swept.remains.sweep()
    swept.clear()
    swept.remains.sweep()
    assert swept.cgroup.times == -2
    swept.loop.close()


def test_what_nobody_collects_is_swept_all_the_same() -> None:
    """A shim that another supervisor made: its zombie goes to the host's init."""
    swept = Swept()
    swept.deleting = True
    swept.remains.sweep_after(1)
    swept.run()
    assert (swept.removed, swept.context.processes.on_collected) == (1, {})
