"""The watch: leases run out, the brake engages, one process looks at a time."""

import threading
from datetime import timedelta

import pytest
from django.utils import timezone

from agent.protocol.messages import ActionResult
from agent.protocol.states import NodeState, TaskState
from controlplane.events.models import Event
from nodes import actions, queries
from nodes.jobs import Reconciler
from nodes.models import Action, ActionState, Container, Node, Task, Watch
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db
N = NodeState


def silence(*rows: Node) -> None:
    Node.objects.filter(pk__in=[row.pk for row in rows]).update(lease_until=timezone.now() - timedelta(seconds=1))


def states() -> dict[str, str]:
    return dict(Node.objects.values_list("hostname", "state"))


@pytest.fixture
def watched() -> list[Node]:
    """Nine linked nodes that somebody has just looked at."""
    rows = [fleet.node(f"n{i}") for i in range(9)]
    actions.sweep()
    return rows


def test_a_silent_node_goes_down_and_its_tasks_move() -> None:
    fleet.image()
    one, _ = fleet.node("one"), fleet.node("two")
    service = actions.create_service(fleet.user("root", admin=True), fleet.spec(replicas=2))
    fleet.obey()
    actions.sweep()
    silence(one)
    assert actions.sweep() == 1
    assert states() == {"one": N.DOWN, "two": N.READY}
    assert Event.objects.filter(kind="node.down", target=f"node/{one.pk}").count() == 1
    Node.objects.filter(pk=one.pk).update(session="")
    fleet.obey()
    live = Task.objects.live().filter(service=service).values_list("node__hostname", flat=True)
    assert list(live) == ["two", "two"]


def test_two_silent_nodes_go_down_three_engage_the_brake(watched: list[Node]) -> None:
    silence(*watched[:2])
    actions.sweep()
    assert [state for state in states().values()].count(N.DOWN) == 2
    silence(watched[2])
    actions.sweep()
    assert states()["n2"] == N.UNKNOWN
    assert Watch.objects.get().brake_engaged_at is not None
    assert Event.objects.filter(kind="cluster.brake_engaged").count() == 1


def test_a_released_brake_lets_silent_nodes_go_down(watched: list[Node]) -> None:
    silence(*watched[:3])
    actions.sweep()
    assert states()["n0"] == N.UNKNOWN
    actions.release_brake(fleet.user("root", admin=True))
    actions.sweep()
    assert states()["n0"] == N.DOWN


def test_after_nobody_looked_nobody_is_declared_dead(watched: list[Node]) -> None:
    Watch.objects.update(looked_at=timezone.now() - timedelta(minutes=1))
    silence(*watched)
    actions.sweep()
    assert set(states().values()) == {N.UNKNOWN}
    for row in watched[:4]:
        actions.touch_leases({row.pk: row.session}, web_id="web-1")
    actions.sweep()
    assert list(states().values()).count(N.READY) == 4


def test_a_node_without_a_link_outlives_a_short_restart_of_the_control_plane(watched: list[Node]) -> None:
    node = watched[0]
    actions.link_lost(node.pk, node.epoch)
    Watch.objects.update(looked_at=timezone.now() - timedelta(seconds=4))
    actions.sweep()
    assert states()["n0"] == N.UNKNOWN
    assert "the control plane was away" in Node.objects.get(pk=node.pk).state_reason
    silence(node)
    actions.sweep()
    assert states()["n0"] == N.UNKNOWN, "the long grace counts from the restart"
    assert list(states().values()).count(N.READY) == len(watched) - 1


def test_one_process_watches_at_a_time() -> None:
    first, second = Reconciler(), Reconciler()
    assert first.step()
    assert not second.step()
    actions.leave_watch(first.holder)
    assert second.step()
    Watch.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert first.step()


def test_the_reconciler_works_when_something_happened_and_rests_otherwise() -> None:
    fleet.image()
    fleet.node("one")
    loop = Reconciler()
    service = actions.create_service(fleet.user("root", admin=True), fleet.spec(replicas=2))
    loop.step()
    assert Task.objects.filter(service=service, observed=TaskState.ASSIGNED).count() == 2
    for _ in range(3):
        loop.step()
    events = Event.objects.count()
    loop.step()
    assert Event.objects.count() == events


def test_an_action_is_answered_once_and_only_by_its_node() -> None:
    one, two = fleet.node("one"), fleet.node("two")
    admin = fleet.user("root", admin=True)
    queued = actions.queue_action(admin, one, "container_stop", "c1", {"grace": 3})
    (message,) = queries.pending_actions(one.pk, one.epoch)
    assert (message.action_id, message.kind, message.target, message.args) == (queued.pk, "container_stop", "c1", {"grace": 3})
    assert queries.pending_actions(two.pk, two.epoch) == []
    assert not actions.complete_action(two.pk, ActionResult(two.epoch, queued.pk, True))
    assert actions.complete_action(one.pk, ActionResult(one.epoch, queued.pk, True, {"exit": 0}))
    assert not actions.complete_action(one.pk, ActionResult(one.epoch, queued.pk, False))
    assert Action.objects.get().state == ActionState.DONE
    assert queries.pending_actions(one.pk, one.epoch) == []


def test_unanswered_actions_expire() -> None:
    one = fleet.node("one")
    actions.queue_action(fleet.user("root", admin=True), one, "container_stop", "c1")
    Action.objects.update(deadline=timezone.now() - timedelta(seconds=1))
    actions.sweep()
    expired = Action.objects.get()
    assert (expired.state, expired.error["code"]) == (ActionState.EXPIRED, "node_unreachable")


@pytest.mark.django_db(transaction=True)
def test_the_loop_ends_when_it_is_told() -> None:
    from controlplane.rbac.seed import after_migrate

    after_migrate()
    stop = threading.Event()
    loop = Reconciler()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        deadline = threading.Event()
        for _ in range(200):
            if Watch.objects.filter(holder=loop.holder).exists():
                break
            deadline.wait(0.05)
        assert Watch.objects.filter(holder=loop.holder).exists()
    finally:
        stop.set()
        loop.wake.set()
        thread.join(20)
    assert not thread.is_alive()
    assert not Watch.objects.exclude(holder="").exists()
    assert not Container.objects.exists()
