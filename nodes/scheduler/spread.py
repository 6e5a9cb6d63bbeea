"""Ranking: which of the nodes that may take a task takes it.

SwarmKit (manager/scheduler/nodeinfo.go, decision_tree.go): a tree by the spread preferences, at each level the branch with the
fewest tasks of the service; in the leaf the node with the fewest tasks of the service, then the fewest tasks. A node where this
version failed five times in five minutes sinks below all others. Ties go by node id, so that a plan is deterministic.

All tasks of a group are alike, so room on a node only shrinks while the group is placed: a node that once had no room is dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from nodes.constraints import label_value
from nodes.scheduler.filters import NodeLoad

Key = tuple[int, int, int, str]
SINK_AT = 5


class Branch:
    """A subtree of nodes that share the values of the first spread preferences."""

    def __init__(
        self, service_id: str, loads: Sequence[NodeLoad], preferences: Sequence[str], failures: Callable[[str], int]
    ) -> None:
        self._service = service_id
        self._failures = failures
        self.tasks = sum(load.by_service.get(service_id, 0) for load in loads)
        self._branches: list[Branch] = []
        self._heap: list[tuple[Key, NodeLoad]] = []
        if preferences:
            groups: dict[str, list[NodeLoad]] = {}
            for load in loads:
                groups.setdefault(label_value(preferences[0], load.node), []).append(load)
            self._branches = [Branch(service_id, groups[value], preferences[1:], failures) for value in sorted(groups)]
        else:
            self._heap = [(self._key(load), load) for load in loads]
            heapq.heapify(self._heap)

    def _key(self, load: NodeLoad) -> Key:
        failures = self._failures(load.node.id)
        sinks = failures if failures >= SINK_AT else 0
        return (sinks, load.by_service.get(self._service, 0), load.tasks, load.node.id)

    def take(self, fits: Callable[[NodeLoad], bool], place: Callable[[NodeLoad], None]) -> NodeLoad | None:
        """Place one task on the best node that `fits`; None when none does. Nodes that do not fit leave the tree."""
        chosen = self._take_branch(fits, place) if self._branches else self._take_leaf(fits, place)
        if chosen is not None:
            self.tasks += 1
        return chosen

    def _take_branch(self, fits: Callable[[NodeLoad], bool], place: Callable[[NodeLoad], None]) -> NodeLoad | None:
        while self._branches:
            best = min(self._branches, key=lambda branch: branch.tasks)
            chosen = best.take(fits, place)
            if chosen is not None:
                return chosen
            self._branches.remove(best)
        return None

    def _take_leaf(self, fits: Callable[[NodeLoad], bool], place: Callable[[NodeLoad], None]) -> NodeLoad | None:
        while self._heap:
            _, load = heapq.heappop(self._heap)
            if fits(load):
                place(load)
                heapq.heappush(self._heap, (self._key(load), load))
                return load
        return None
