"""A cluster in memory: rows that change by the orchestrator's and the scheduler's answers, agents that obey with delay.

It applies changes as `nodes.actions` does (states only grow, one live task per slot and generation) and fails the test that
breaks an invariant. Agents see assignments and the control plane sees statuses only when a message is delivered; messages may
be late, out of order and repeated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from agent.protocol.spec import ContainerSpec, PortSpec, Resources, ServiceSpec, UpdateConfig
from agent.protocol.states import NodeState, TaskState
from nodes.orchestrator import (
    CreateTask,
    DeleteService,
    DeleteTask,
    RollBack,
    SetDesired,
    SetObserved,
    SetUpdate,
    reconcile,
)
from nodes.scheduler import Unplaced, place
from nodes.snapshot import NodeView, Restart, ServiceView, Snapshot, TaskView, UpdateState, UpdateStatus, host_ports

S = TaskState


def spec(name: str = "web", *, image: str = "library/web:1", memory: int = 0, port: int = 0, **fields: object) -> ServiceSpec:
    container = ContainerSpec(
        image=image,
        resources=Resources(reserve_memory=memory),
        ports=(PortSpec(80, port),) if port else (),
    )
    return ServiceSpec(name=name, container=container, **fields)  # type: ignore[arg-type]  # a test's shorthand


class Cluster:
    """`outcome(task)` says what a started task does: "run" (stays up), "fail", "complete" or "hang" (never runs)."""

    def __init__(self, nodes: int = 3, *, memory: int = 1 << 40) -> None:
        self.now = 1000.0
        self.nodes = {f"n{i}": NodeView(f"n{i}", hostname=f"host{i}", memory=memory) for i in range(1, nodes + 1)}
        self.services: dict[str, ServiceView] = {}
        self.previous: dict[str, ServiceView] = {}
        self.rows: dict[str, TaskView] = {}
        self.restarts: list[Restart] = []
        self.why: dict[str, Unplaced] = {}
        self.outcome: Callable[[TaskView], str] = lambda task: "run"
        self.wake_at: float | None = None
        self.made = 0
        self.history: list[TaskView] = []

    # what users do
    def create(self, service_spec: ServiceSpec, **fields: object) -> str:
        self.services["s1" if not self.services else f"s{len(self.services) + 1}"] = view = ServiceView(
            id="s1" if not self.services else f"s{len(self.services) + 1}",
            spec=service_spec,
            template=service_spec.container.image,
            **fields,  # type: ignore[arg-type]  # a test's shorthand
        )
        return view.id

    def update(self, service_id: str, image: str = "", config: UpdateConfig | None = None, **fields: object) -> None:
        old = self.services[service_id]
        container = dataclasses.replace(old.spec.container, image=image or old.spec.container.image)
        new = dataclasses.replace(old.spec, container=container, update=config or old.spec.update, **fields)
        self.previous[service_id] = old
        self.services[service_id] = dataclasses.replace(
            old,
            spec=new,
            template=container.image,
            generation=old.generation + 1,
            update=UpdateStatus(),
            has_previous=True,
        )

    def scale(self, service_id: str, replicas: int) -> None:
        old = self.services[service_id]
        self.services[service_id] = dataclasses.replace(old, spec=dataclasses.replace(old.spec, replicas=replicas))

    def node(self, node_id: str, **fields: object) -> None:
        self.nodes[node_id] = dataclasses.replace(self.nodes[node_id], **fields)

    def down(self, node_id: str) -> None:
        self.node(node_id, state=NodeState.DOWN, down_since=self.now)

    # what the control plane does
    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.now,
            tuple(self.nodes.values()),
            tuple(self.services.values()),
            tuple(self.rows.values()),
            tuple(self.restarts),
        )

    def decide(self) -> int:
        """One round of reconcile and place; the number of changes."""
        decision = reconcile(self.snapshot())
        for change in decision.changes:
            self._apply(change)
        self.wake_at = decision.wake_at
        plan = place(self.snapshot())
        for assignment in plan.assignments:
            task = self.rows[assignment.task_id]
            assert not task.node_id or task.node_id == assignment.node_id, "a task is bound to one node for ever"
            self._write(task, node_id=assignment.node_id, observed=S.ASSIGNED, observed_at=self.now)
        self.why = {item.task_id: item for item in plan.unplaced}
        self.check()
        return len(decision.changes) + len(plan.assignments)

    def settle(self, limit: int = 50) -> None:
        """Decide until nothing changes; fails when that takes more than `limit` rounds."""
        for _ in range(limit):
            if not self.decide():
                return
        raise AssertionError(f"no fixed point after {limit} rounds: {reconcile(self.snapshot()).changes}")

    def _write(self, task: TaskView, **fields: object) -> None:
        new = dataclasses.replace(task, **fields)  # type: ignore[arg-type]  # a test's shorthand
        assert new.observed >= task.observed, f"observed of {task.id} went back from {task.observed} to {new.observed}"
        assert new.desired >= task.desired, f"desired of {task.id} went back"
        self.rows[task.id] = new

    def _apply(self, change: object) -> None:
        match change:
            case CreateTask():
                self._create(change)
            case SetDesired(task_id, desired):
                self._write(self.rows[task_id], desired=desired)
            case SetObserved(task_id, observed, _):
                self._write(self.rows[task_id], observed=observed, observed_at=self.now)
            case DeleteTask(task_id):
                self.history.append(self.rows.pop(task_id))
            case SetUpdate(service_id, status):
                self.services[service_id] = dataclasses.replace(self.services[service_id], update=status)
            case RollBack(service_id, message):
                self._roll_back(service_id, message)
            case DeleteService(service_id):
                assert not [task for task in self.rows.values() if task.service_id == service_id]
                del self.services[service_id]

    def _create(self, change: CreateTask) -> None:
        service = self.services[change.service_id]
        if change.restart_of:
            old = self.rows[change.restart_of]
            failed = old.observed in (S.FAILED, S.REJECTED)
            self.restarts.append(
                Restart(service.id, change.slot, old.node_id, service.generation, self.now, failed),
            )
        self.made += 1
        container = service.spec.container
        self.rows[f"t{self.made:05}"] = TaskView(
            id=f"t{self.made:05}",
            service_id=service.id,
            slot=change.slot,
            node_id=change.node_id,
            desired=change.desired,
            generation=service.generation,
            template=service.template,
            created=self.now,
            observed_at=self.now,
            start_after=change.start_after,
            memory=container.resources.reserve_memory,
            nano_cpus=container.resources.reserve_nano_cpus,
            ports=host_ports(container.ports),
        )

    def _roll_back(self, service_id: str, message: str) -> None:
        previous, now = self.previous.pop(service_id), self.services[service_id]
        self.services[service_id] = dataclasses.replace(
            now,
            spec=previous.spec,
            template=previous.template,
            generation=now.generation + 1,
            has_previous=False,
            update=UpdateStatus(UpdateState.ROLLING_BACK, 0, self.now, message=message),
        )

    def check(self) -> None:
        live: set[tuple[object, ...]] = set()
        used: dict[str, int] = {}
        ports: set[tuple[str, int, str]] = set()
        for task in self.rows.values():
            if task.live:
                key = (task.service_id, task.slot, task.node_id if not task.slot else "", task.generation)
                assert key not in live, f"two live tasks in {key}"
                live.add(key)
            if task.occupies:
                used[task.node_id] = used.get(task.node_id, 0) + task.memory
                for port in task.ports:
                    assert (task.node_id, *port) not in ports, f"port {port} twice on {task.node_id}"
                    ports.add((task.node_id, *port))
        for node_id, memory in used.items():
            assert memory <= self.nodes[node_id].memory, f"{node_id} is overfull"

    # what agents do
    def report(self, task_id: str, observed: TaskState) -> None:
        """A status arrives: fenced as `nodes.actions.report` does, it changes nothing when it is old."""
        task = self.rows.get(task_id)
        if task is None or task.observed >= observed or self.nodes[task.node_id].gone:
            return
        running_at = task.running_at or (self.now if observed is S.RUNNING else 0.0)
        self._write(task, observed=observed, observed_at=self.now, running_at=running_at)

    def next_state(self, task: TaskView) -> TaskState | None:
        """What the agent of the task would report next, one transition a step; None when it is at rest."""
        if task.ended:
            return None
        if not task.live:
            return S.SHUTDOWN
        if task.observed < S.READY:
            return {S.ASSIGNED: S.ACCEPTED, S.ACCEPTED: S.PREPARING}.get(task.observed, S.READY)
        if task.desired is S.READY:
            return None
        outcome = self.outcome(task)
        if task.observed < S.RUNNING:
            return None if outcome == "hang" else S.FAILED if outcome == "fail" else S.RUNNING
        return {"crash": S.FAILED, "complete": S.COMPLETE}.get(outcome)

    def agents(self) -> bool:
        """Every agent of a node that answers takes one step; true when any reported something."""
        moved = False
        for task in list(self.rows.values()):
            if task.bound and not self.nodes[task.node_id].gone:
                state = self.next_state(task)
                if state is not None:
                    self.report(task.id, state)
                    moved = True
        return moved

    def run(self, seconds: float = 0.0, limit: int = 2000) -> None:
        """Let control plane and agents work until both rest; then jump to the next timer, up to `seconds` from now."""
        end = self.now + seconds
        for _ in range(limit):
            self.settle()
            if self.agents():
                continue
            if self.wake_at is None or self.wake_at > end:
                self.now = end
                return
            self.now = self.wake_at
        raise AssertionError("the cluster does not come to rest")

    # questions
    def tasks(self, service_id: str = "s1", observed: TaskState | None = None) -> list[TaskView]:
        found = [task for task in self.rows.values() if task.service_id == service_id]
        return [task for task in found if observed is None or task.observed is observed]

    def running(self, service_id: str = "s1") -> list[TaskView]:
        return [task for task in self.tasks(service_id, S.RUNNING) if task.live and not self.nodes[task.node_id].gone]

    def per_node(self, service_id: str = "s1") -> dict[str, int]:
        counts = dict.fromkeys(self.nodes, 0)
        for task in self.running(service_id):
            counts[task.node_id] += 1
        return counts
