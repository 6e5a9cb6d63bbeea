"""Whole rounds against the database: create, place, report, scale, update, lose a node."""

import dataclasses

import pytest

from agent.protocol.spec import FailureAction, Placement, RestartPolicy, UpdateConfig
from agent.protocol.states import Availability, NodeState, TaskState
from controlplane.events.models import Event
from nodes import actions, queries
from nodes.models import HostPort, Node, Service, Task
from nodes.snapshot import UpdateState
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db
S = TaskState


@pytest.fixture
def admin() -> object:
    fleet.image()
    return fleet.user("root", admin=True)


def test_a_service_spreads_over_two_nodes_and_scales(admin: fleet.Actor) -> None:
    one, two = fleet.node("one"), fleet.node("two")
    service = actions.create_service(admin, fleet.spec(replicas=4))
    fleet.obey()
    assert fleet.running(service) == {"one": 2, "two": 2}
    rev, tasks, _ = queries.assignments(one.pk)
    assert rev == Node.objects.get(pk=one.pk).assign_rev > 0
    assert {task.image for task in tasks} == {f"library/web:1@{fleet.DIGEST}"}
    assert {task.tenant for task in tasks} == {str(service.collection_id)}
    actions.scale(admin, service, 1)
    fleet.obey()
    assert sum(fleet.running(service).values()) == 1
    assert Task.objects.count() == 1
    assert two.pk != one.pk


def test_every_change_of_a_desired_set_raises_its_revision(admin: fleet.Actor) -> None:
    row = fleet.node("one")
    service = actions.create_service(admin, fleet.spec(replicas=1))
    actions.reconcile_round()
    before = queries.assign_revs([row.pk])[row.pk]
    actions.reconcile_round()
    assert queries.assign_revs([row.pk])[row.pk] == before, "a round that changes nothing bumps nothing"
    fleet.obey()
    actions.scale(admin, service, 0)
    actions.reconcile_round()
    assert queries.assign_revs([row.pk])[row.pk] > before


def test_a_waiting_task_says_why_and_says_it_once(admin: fleet.Actor) -> None:
    fleet.node("one", linked=False)
    fleet.node("two", labels={"zone": "b"})
    service = actions.create_service(admin, fleet.spec(placement=Placement(constraints=("node.labels.zone==a",))))
    actions.reconcile_round()
    task = Task.objects.get(service=service)
    assert task.observed == S.PENDING
    assert task.why_pending["text"] == "no suitable node (2 nodes: 1 constraint node.labels.zone==a, 1 not ready (down))"
    told = Event.objects.filter(kind="service.tasks_waiting").count()
    actions.reconcile_round()
    assert Event.objects.filter(kind="service.tasks_waiting").count() == told == 1


def test_an_update_rolls_and_a_failing_one_rolls_back(admin: fleet.Actor) -> None:
    fleet.node("one")
    quick = UpdateConfig(monitor=1e-6, failure_action=FailureAction.ROLLBACK)
    one = fleet.spec(replicas=2, update=quick, rollback=quick, restart=RestartPolicy(delay=0))
    two = dataclasses.replace(one, container=dataclasses.replace(one.container, image="library/web:2"))
    service = actions.create_service(admin, one)
    fleet.obey()
    service = actions.update_service(admin, service, two, expected=service.version)
    fleet.obey()
    service.refresh_from_db()
    assert service.update.state is UpdateState.COMPLETED
    assert set(Task.objects.live().values_list("image", flat=True)) == {f"library/web:2@{fleet.OTHER}"}
    service = actions.update_service(admin, service, one, expected=None)
    actions.reconcile_round()
    for task in Task.objects.live().filter(template=service.template):
        actions.report(str(task.node_id), task.node.epoch, [fleet.status(task, S.FAILED, exit_code=1)])
    fleet.obey()
    service.refresh_from_db()
    assert service.update.state is UpdateState.ROLLED_BACK
    assert set(Task.objects.live().values_list("image", flat=True)) == {f"library/web:2@{fleet.OTHER}"}


def test_a_lost_node_is_replaced_and_rows_return_with_it(admin: fleet.Actor) -> None:
    one, _ = fleet.node("one"), fleet.node("two")
    service = actions.create_service(admin, fleet.spec(replicas=4))
    fleet.obey()
    Node.objects.filter(pk=one.pk).update(state=NodeState.DOWN, session="")
    fleet.obey()
    assert fleet.running(service) == {"one": 2, "two": 4} or fleet.running(service) == {"two": 4}
    fleet.link(one)
    fleet.obey()
    assert fleet.running(service) == {"two": 4}
    assert not Task.objects.occupying().filter(node=one).exists()


def test_drain_moves_and_removal_deletes_everything(admin: fleet.Actor) -> None:
    one, _ = fleet.node("one"), fleet.node("two")
    service = actions.create_service(admin, fleet.spec(replicas=2))
    fleet.obey()
    actions.set_availability(admin, one, Availability.DRAIN)
    fleet.obey()
    assert fleet.running(service) == {"two": 2}
    actions.remove_service(admin, service)
    fleet.obey()
    assert not Service.objects.exists()
    assert not Task.objects.exists()
    again = actions.create_service(admin, fleet.spec())
    assert again.pk != service.pk


def test_host_ports_are_rows_held_while_the_task_lives(admin: fleet.Actor) -> None:
    fleet.node("one")
    service = actions.create_service(admin, fleet.spec(replicas=2, port=8080))
    fleet.obey()
    assert HostPort.objects.values_list("port", "protocol").get() == (8080, "tcp")
    assert Task.objects.filter(observed=S.PENDING).count() == 1
    actions.remove_service(admin, service)
    fleet.obey()
    assert not HostPort.objects.exists()
