"""The commit of a plan checks everything again: a stale plan never overfills a node and no task is bound twice."""

import pytest
from django.db import IntegrityError, transaction

from agent.protocol.states import Availability, NodeState, TaskState
from nodes import actions, queries
from nodes.models import HostPort, Node, Task
from nodes.orchestrator import reconcile
from nodes.scheduler import Assignment, Plan, place
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db
S = TaskState


@pytest.fixture
def waiting() -> list[Task]:
    """Three tasks without a node, each reserving 3 GiB and host port 8080."""
    fleet.image()
    admin = fleet.user("root", admin=True)
    actions.create_service(admin, fleet.spec(replicas=3, memory=3 * fleet.GIB, port=8080))
    snapshot = queries.cluster_snapshot()
    actions.apply(reconcile(snapshot), snapshot)
    return list(Task.objects.all())


def plan(*pairs: tuple[Task, Node]) -> Plan:
    return Plan(tuple(Assignment(task.pk, node.pk) for task, node in pairs))


def test_a_task_is_bound_once(waiting: list[Task]) -> None:
    one, two = fleet.node("one"), fleet.node("two")
    assert actions.assign(plan((waiting[0], one))) == 1
    assert actions.assign(plan((waiting[0], two))) == 0
    assert Task.objects.get(pk=waiting[0].pk).node_id == one.pk


def test_room_is_counted_again_under_the_lock(waiting: list[Task]) -> None:
    small = fleet.node("small", memory=4 * fleet.GIB)
    Task.objects.update(host_ports=[])
    assert actions.assign(plan((waiting[0], small), (waiting[1], small))) == 1
    assert actions.assign(plan((waiting[1], small))) == 0


def test_a_host_port_is_taken_once(waiting: list[Task]) -> None:
    one = fleet.node("one", memory=64 * fleet.GIB)
    assert actions.assign(plan((waiting[0], one), (waiting[1], one))) == 1
    assert actions.assign(plan((waiting[1], one))) == 0
    with pytest.raises(IntegrityError), transaction.atomic():
        HostPort.objects.create(node=one, task=waiting[1], port=8080, protocol="tcp")


@pytest.mark.parametrize(
    "fields",
    [
        {"state": NodeState.SUSPECT},
        {"state": NodeState.UNKNOWN},
        {"state": NodeState.DOWN},
        {"state": NodeState.LEFT},
        {"availability": Availability.PAUSE},
        {"availability": Availability.DRAIN},
        {"approved_at": None},
    ],
)
def test_a_node_that_changed_since_the_plan_takes_nothing(waiting: list[Task], fields: dict[str, object]) -> None:
    one = fleet.node("one")
    made = place(queries.cluster_snapshot())
    assert made.assignments
    Node.objects.filter(pk=one.pk).update(**fields)
    assert actions.assign(Plan(made.assignments)) == 0
    assert not Task.objects.filter(node__isnull=False).exists()


def test_a_task_that_is_no_longer_wanted_is_not_bound(waiting: list[Task]) -> None:
    one = fleet.node("one")
    Task.objects.filter(pk=waiting[0].pk).update(desired=S.SHUTDOWN)
    assert actions.assign(plan((waiting[0], one))) == 0


def test_two_live_tasks_in_one_slot_are_refused_by_the_database(waiting: list[Task]) -> None:
    old = waiting[0]
    values = {field: getattr(old, field) for field in ("service_id", "slot", "spec", "image", "generation", "template")}
    with pytest.raises(IntegrityError), transaction.atomic():
        Task.objects.create(**values)
    Task.objects.filter(pk=old.pk).update(desired=S.SHUTDOWN)
    Task.objects.create(**values)


def test_a_decision_from_an_old_snapshot_is_not_applied() -> None:
    fleet.image()
    admin = fleet.user("root", admin=True)
    service = actions.create_service(admin, fleet.spec(replicas=3))
    snapshot = queries.cluster_snapshot()
    decision = reconcile(snapshot)
    actions.scale(admin, service, 1)
    assert actions.apply(decision, snapshot) == 0
    assert not Task.objects.exists()
    fresh = queries.cluster_snapshot()
    assert actions.apply(reconcile(fresh), fresh) == 1
    assert actions.apply(reconcile(fresh), fresh) == 0, "the same decision twice: the constraint keeps one"
    assert Task.objects.count() == 1
