"""Thousands of histories of a small cluster: nodes die and return, drain, services change, messages are late, lost and repeated.

After the last fault the cluster comes to what its services want within a bounded number of rounds; on the way observed and
desired states only grow, no node is overfull, no port is given twice and no slot has two live tasks of one generation
(`Cluster.check`).
"""

from __future__ import annotations

import random

import pytest

from agent.protocol.spec import Placement, RestartPolicy, ServiceMode, UpdateConfig, UpdateOrder
from agent.protocol.states import Availability, NodeState, TaskState
from nodes.snapshot import TaskView, UpdateState
from tests.unit.nodes.cluster import Cluster, spec

S = TaskState
HISTORIES = 5000
BLOCKS = 10


class World:
    """One history. Statuses travel in `wire` and are delivered in any order, some twice, some never."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cluster = Cluster(self.random.randint(2, 4), memory=40)
        self.wire: list[tuple[str, TaskState]] = []
        self.flaky = True
        self.cluster.outcome = self._outcome
        for index in range(self.random.randint(1, 2)):
            self.cluster.create(self._spec(f"svc{index}"))

    def _spec(self, name: str) -> object:
        mode = self.random.choice([ServiceMode.REPLICATED, ServiceMode.REPLICATED, ServiceMode.GLOBAL])
        update = UpdateConfig(
            parallelism=self.random.choice([0, 1, 2]),
            order=self.random.choice(list(UpdateOrder)),
            monitor=1,
            max_failure_ratio=1.0,
            progress_deadline=30,
        )
        return spec(
            name,
            mode=mode,
            replicas=self.random.randint(0, 5),
            memory=self.random.choice([0, 3]),
            placement=Placement(max_replicas_per_node=self.random.choice([0, 0, 4])),
            restart=RestartPolicy(delay=self.random.choice([0, 1])),
            update=update,
            rollback=update,
        )

    def _outcome(self, task: TaskView) -> str:
        if not self.flaky:
            return "run"
        return self.random.choices(["run", "fail", "crash", "complete", "hang"], [8, 1, 1, 1, 1])[0]

    def fault(self) -> None:
        cluster, pick = self.cluster, self.random
        node = cluster.nodes[pick.choice(list(cluster.nodes))]
        service = pick.choice(list(cluster.services))
        match pick.randrange(9):
            case 0:
                cluster.down(node.id)
            case 1:
                cluster.node(node.id, state=pick.choice([NodeState.SUSPECT, NodeState.UNKNOWN]), down_since=0.0)
            case 2 | 3:
                cluster.node(node.id, state=NodeState.READY, down_since=0.0)
            case 4:
                cluster.node(node.id, availability=pick.choice(list(Availability)))
            case 5:
                cluster.scale(service, pick.randint(0, 6))
            case 6:
                cluster.update(service, f"library/web:{pick.randint(1, 3)}")
            case 7:
                cluster.now += pick.choice([0.5, 3, 61])
            case 8:
                self._deliver(everything=False)

    def work(self) -> None:
        """The control plane decides, agents act, some messages arrive."""
        self.cluster.decide()
        for task in list(self.cluster.rows.values()):
            node = self.cluster.nodes.get(task.node_id)
            if node is not None and task.bound and node.state is not NodeState.DOWN:
                state = self.cluster.next_state(task)
                if state is not None:
                    self.wire.append((task.id, state))
        self._deliver(everything=False)

    def _deliver(self, *, everything: bool) -> None:
        self.random.shuffle(self.wire)
        kept = []
        for message in self.wire:
            if everything or self.random.random() < 0.6:
                self.cluster.report(*message)
                if self.random.random() < 0.2:
                    kept.append(message)  # and again later
            elif self.random.random() < 0.9:
                kept.append(message)
        self.wire = [] if everything else kept

    def heal(self) -> None:
        self.flaky = False
        self._deliver(everything=True)
        for node_id in self.cluster.nodes:
            self.cluster.node(node_id, state=NodeState.READY, availability=Availability.ACTIVE, down_since=0.0)

    def converged(self) -> str:
        """What is still wrong, "" when desired = actual."""
        for service in self.cluster.services.values():
            running = self.cluster.running(service.id)
            wanted = len(self.cluster.nodes) if service.spec.mode is ServiceMode.GLOBAL else service.spec.replicas
            placeable = min(wanted, self._room(service.id)) if service.spec.mode is ServiceMode.REPLICATED else wanted
            if len(running) < placeable or len(running) > wanted:
                return f"{service.id}: {len(running)} of {wanted} run ({placeable} placeable)"
            if service.update.state is not UpdateState.PAUSED and any(task.template != service.template for task in running):
                return f"{service.id}: outdated tasks run"
        stray = [task for task in self.cluster.rows.values() if task.bound and not task.live and not task.ended]
        return f"strays {stray}" if stray else ""

    def _room(self, service_id: str) -> int:
        limit = self.cluster.services[service_id].spec.placement.max_replicas_per_node
        return limit * len(self.cluster.nodes) if limit else 1 << 30


@pytest.mark.parametrize("block", range(BLOCKS))
def test_desired_becomes_actual_after_the_last_fault(block: int) -> None:
    size = HISTORIES // BLOCKS
    for seed in range(block * size, (block + 1) * size):
        world = World(seed)
        for _ in range(world.random.randint(3, 15)):
            world.fault()
            world.work()
        world.heal()
        world.cluster.run(200, limit=600)
        assert world.converged() == "", f"seed {seed}: {world.converged()}"
