"""Properties of `place` over arbitrary clusters."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.protocol.spec import Placement, ServiceSpec
from agent.protocol.states import Availability, NodeState, TaskState
from nodes.scheduler import place
from nodes.scheduler.filters import NodeLoad, load_refusal, static_refusal
from nodes.snapshot import NodeView, ServiceView, Snapshot, TaskView
from tests.unit.nodes.cluster import spec

S = TaskState
STATES = (S.NEW, S.PENDING, S.ASSIGNED, S.RUNNING, S.COMPLETE, S.FAILED)


@st.composite
def nodes(draw: st.DrawFn) -> tuple[NodeView, ...]:
    made = []
    for index in range(draw(st.integers(0, 6))):
        made.append(
            NodeView(
                f"n{index}",
                state=draw(st.sampled_from([NodeState.READY, NodeState.READY, *NodeState])),
                availability=draw(st.sampled_from([Availability.ACTIVE, Availability.ACTIVE, *Availability])),
                labels={"zone": draw(st.sampled_from("abc"))},
                memory=draw(st.integers(0, 10)),
                collection=draw(st.sampled_from(["/", "/Shared/", "/Shared/x/"])),
            )
        )
    return tuple(made)


@st.composite
def services(draw: st.DrawFn, index: int) -> ServiceView:
    placement = Placement(
        constraints=draw(st.sampled_from([(), ("node.labels.zone==a",), ("node.labels.zone!=b",)])),
        spread=draw(st.sampled_from([(), ("node.labels.zone",)])),
        max_replicas_per_node=draw(st.integers(0, 2)),
    )
    made: ServiceSpec = spec(
        f"s{index}", memory=draw(st.integers(0, 4)), port=draw(st.sampled_from([0, 0, 80])), placement=placement
    )
    return ServiceView(f"s{index}", made, template=f"s{index}", root=draw(st.sampled_from(["/", "/Shared/"])))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    cluster = draw(nodes())
    wanted = tuple(draw(services(index)) for index in range(draw(st.integers(1, 3))))
    tasks = []
    for index in range(draw(st.integers(0, 14))):
        service = draw(st.sampled_from(wanted))
        observed = draw(st.sampled_from(STATES))
        bound = observed >= S.ASSIGNED and cluster
        container = service.spec.container
        tasks.append(
            TaskView(
                f"t{index}",
                service.id,
                slot=index + 1,
                node_id=draw(st.sampled_from(cluster)).id if bound else "",
                observed=observed if bound else S.PENDING,
                desired=draw(st.sampled_from([S.READY, S.RUNNING, S.RUNNING, S.SHUTDOWN])),
                template=service.template,
                created=float(draw(st.integers(0, 3))),
                memory=container.resources.reserve_memory,
                ports=tuple((port.published, port.protocol.value) for port in container.ports),
            )
        )
    return Snapshot(100.0, cluster, wanted, tuple(tasks))


@settings(max_examples=300, deadline=None)
@given(snapshots())
def test_every_assignment_passes_every_filter_at_its_moment(snapshot: Snapshot) -> None:
    loads = {node.id: NodeLoad(node) for node in snapshot.nodes}
    for task in snapshot.tasks:
        if task.occupies:
            loads[task.node_id].add(task)
    services = {service.id: service for service in snapshot.services}
    tasks = {task.id: task for task in snapshot.tasks}
    seen = set()
    for assignment in place(snapshot).assignments:
        task, load = tasks[assignment.task_id], loads[assignment.node_id]
        service = services[task.service_id]
        assert task.id not in seen
        seen.add(task.id)
        assert task.live
        assert task.observed <= S.PENDING
        assert static_refusal(service, load.node) == ""
        assert load_refusal(service, task, load) == ""
        load.add(task)


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_a_task_stays_unplaced_only_when_every_node_refuses_it_in_the_end(snapshot: Snapshot) -> None:
    plan = place(snapshot)
    loads = {node.id: NodeLoad(node) for node in snapshot.nodes}
    tasks = {task.id: task for task in snapshot.tasks}
    for task in snapshot.tasks:
        if task.occupies:
            loads[task.node_id].add(task)
    for assignment in plan.assignments:
        loads[assignment.node_id].add(tasks[assignment.task_id])
    services = {service.id: service for service in snapshot.services}
    members = sum(node.state is not NodeState.LEFT for node in snapshot.nodes)
    waiting = {task.id for task in snapshot.tasks if task.live and task.observed <= S.PENDING}
    assert waiting == {item.task_id for item in plan.assignments} | {item.task_id for item in plan.unplaced}
    for item in plan.unplaced:
        task = tasks[item.task_id]
        service = services[task.service_id]
        assert sum(item.reasons.values()) == item.nodes == members
        for load in loads.values():
            assert static_refusal(service, load.node) or load_refusal(service, task, load)


@settings(max_examples=100, deadline=None)
@given(snapshots(), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_rows(snapshot: Snapshot, shuffle: random.Random) -> None:
    mixed = [list(snapshot.nodes), list(snapshot.services), list(snapshot.tasks)]
    for items in mixed:
        shuffle.shuffle(items)
    assert place(snapshot) == place(Snapshot(100.0, *(tuple(items) for items in mixed)))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(0, 40), st.lists(st.sampled_from("abc"), min_size=1, max_size=7))
def test_equal_nodes_differ_by_at_most_one_task(spread: int, replicas: int, zones: list[str]) -> None:
    cluster = tuple(NodeView(f"n{index}", labels={"zone": zone}) for index, zone in enumerate(zones))
    tasks = tuple(TaskView(f"t{index:02}", "s", slot=index + 1, created=float(index % spread)) for index in range(replicas))
    for preferences in ((), ("node.labels.zone",)):
        service = ServiceView("s", spec(placement=Placement(spread=preferences)))
        plan = place(Snapshot(0.0, cluster, (service,), tasks))
        per_node = {node.id: sum(item.node_id == node.id for item in plan.assignments) for node in cluster}
        assert sum(per_node.values()) == replicas
        groups = {zone: [per_node[node.id] for node in cluster if node.labels["zone"] == zone] for zone in zones}
        for counts in groups.values() if preferences else [list(per_node.values())]:
            assert max(counts) - min(counts) <= 1
        if preferences:
            totals = [sum(counts) for counts in groups.values()]
            assert max(totals) - min(totals) <= 1
