"""Epochs fence: a stale session, a replay and another node change nothing."""

from datetime import timedelta

import pytest
from django.utils import timezone

from agent.protocol.errors import InvalidInput
from agent.protocol.messages import ContainerInfo, Contents, ImageInfo, Samples
from agent.protocol.states import Availability, NodeState, TaskState
from controlplane.events.models import Event
from nodes import actions, queries
from nodes.actions.session import EPOCH_LEAP
from nodes.errors import EpochImplausible, NodeRemoved, StaleSession
from nodes.models import Container, Node, NodeImage, Task, UsageSample
from nodes.models.sample import RING
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db
S = TaskState


@pytest.fixture
def running() -> tuple[Node, Task]:
    fleet.image()
    row = fleet.node("one")
    actions.create_service(fleet.user("root", admin=True), fleet.spec())
    fleet.obey()
    row.refresh_from_db()
    return row, Task.objects.get()


def test_epochs_grow_and_survive_a_database_that_went_back() -> None:
    row = fleet.node("one", linked=False)
    first = actions.register(row.pk, fleet.hello(), "s1", "w")
    second = actions.register(row.pk, fleet.hello(epoch=first.epoch), "s2", "w")
    assert second.epoch > first.epoch
    assert not second.adopt
    Node.objects.filter(pk=row.pk).update(epoch=1, assign_rev=3)
    back = actions.register(row.pk, fleet.hello(epoch=50, assign_rev=9), "s3", "w")
    assert back.epoch == 51
    assert back.assign_rev == 10
    assert back.adopt


def test_an_absurd_epoch_is_refused_and_recorded() -> None:
    row = fleet.node("one")
    with pytest.raises(EpochImplausible):
        actions.register(row.pk, fleet.hello(epoch=row.epoch + EPOCH_LEAP + 1), "s", "w")
    assert Event.objects.filter(kind="node.epoch_refused").exists()
    assert Node.objects.get(pk=row.pk).epoch == row.epoch


def test_a_stale_session_changes_no_row(running: tuple[Node, Task]) -> None:
    row, task = running
    stale = row.epoch
    fresh = fleet.link(row)
    with pytest.raises(StaleSession):
        actions.report(row.pk, stale, [fleet.status(task, S.FAILED)])
    for write in (
        lambda: actions.record_inventory(row.pk, fleet.inventory(stale)),
        lambda: actions.record_contents(row.pk, Contents(stale, (), ())),
        lambda: actions.record_samples(row.pk, Samples(stale, 0.0, {}, {})),
    ):
        with pytest.raises(StaleSession):
            write()
    assert not actions.link_lost(row.pk, stale)
    assert Node.objects.get(pk=row.pk).state == NodeState.READY
    assert Task.objects.get(pk=task.pk).observed == S.RUNNING
    assert actions.report(row.pk, fresh, [fleet.status(task, S.FAILED, exit_code=1)]) == 1


def test_a_replay_changes_nothing_and_states_only_grow(running: tuple[Node, Task]) -> None:
    row, task = running
    ended = fleet.status(task, S.FAILED, at=5.0, exit_code=3, error="boom")
    assert actions.report(row.pk, row.epoch, [ended]) == 1
    assert actions.report(row.pk, row.epoch, [ended]) == 0
    assert actions.report(row.pk, row.epoch, [fleet.status(task, S.RUNNING, at=9.0)]) == 0
    task.refresh_from_db()
    assert (task.observed, task.exit_code, task.error) == (S.FAILED, 3, "boom")


def test_health_of_a_running_task_is_news_without_a_new_state(running: tuple[Node, Task]) -> None:
    row, task = running
    assert actions.report(row.pk, row.epoch, [fleet.status(task, S.RUNNING, at=7.0, health="unhealthy")]) == 1
    assert actions.report(row.pk, row.epoch, [fleet.status(task, S.RUNNING, at=6.0, health="healthy")]) == 0
    assert Task.objects.get(pk=task.pk).health == "unhealthy"


def test_a_node_reports_only_its_own_tasks_and_only_its_own_states(running: tuple[Node, Task]) -> None:
    _, task = running
    other = fleet.node("two")
    assert actions.report(other.pk, other.epoch, [fleet.status(task, S.FAILED)]) == 0
    for state in (S.PENDING, S.ASSIGNED, S.REMOVE, S.ORPHANED):
        with pytest.raises(InvalidInput):
            actions.report(other.pk, other.epoch, [fleet.status(task, state)])


def test_text_that_postgresql_cannot_store_is_cleaned(running: tuple[Node, Task]) -> None:
    row, task = running
    assert actions.report(row.pk, row.epoch, [fleet.status(task, S.FAILED, error="a\0b", message="\udcff")]) == 1
    assert "\0" not in Task.objects.get(pk=task.pk).error


def test_one_update_renews_the_leases_of_current_sessions_only() -> None:
    rows = [fleet.node(f"n{i}") for i in range(3)]
    past = timezone.now() - timedelta(hours=1)
    Node.objects.update(lease_until=past)
    sessions = {row.pk: row.session for row in rows[:2]} | {rows[2].pk: "superseded"}
    assert actions.touch_leases(sessions, web_id="web-1") == 2
    assert actions.touch_leases(sessions, web_id="another-web") == 0
    assert Node.objects.filter(lease_until__gt=timezone.now()).count() == 2


def test_touch_leases_costs_the_same_for_any_number_of_nodes(django_assert_num_queries: object) -> None:
    rows = [fleet.node(f"n{i}") for i in range(5)]
    with django_assert_num_queries(2):  # type: ignore[operator]  # pytest-django's fixture
        actions.touch_leases({row.pk: row.session for row in rows}, web_id="web-1")


def test_a_rebooted_node_has_lost_what_ran(running: tuple[Node, Task]) -> None:
    row, task = running
    fleet.link(row, boot_id="boot-2")
    task.refresh_from_db()
    assert task.observed == S.FAILED
    assert task.message == "the node rebooted"


def test_a_lost_link_is_suspect_at_once_and_a_new_session_makes_it_ready() -> None:
    row = fleet.node("one")
    assert actions.link_lost(row.pk, row.epoch)
    row.refresh_from_db()
    assert (row.state, row.session) == (NodeState.SUSPECT, "")
    fleet.link(row)
    assert Node.objects.get(pk=row.pk).state == NodeState.READY


def test_a_removed_node_is_refused_at_once(running: tuple[Node, Task]) -> None:
    row, task = running
    actions.remove_node(fleet.user("boss", admin=True), row, force=True)
    with pytest.raises(NodeRemoved):
        actions.register(row.pk, fleet.hello(), "s", "w")
    with pytest.raises(StaleSession):
        actions.report(row.pk, row.epoch, [fleet.status(task, S.FAILED)])
    assert actions.touch_leases({row.pk: row.session}, web_id="web-1") == 0
    assert Task.objects.get(pk=task.pk).observed == S.ORPHANED


def test_contents_replace_what_the_node_said_before(running: tuple[Node, Task]) -> None:
    row, task = running
    mine = ContainerInfo("c" * 64, "web.1", "library/web", "i", "running", 1e9, task_id=task.pk, isolation="shim")
    by_hand = ContainerInfo("d" * 64, "hand", "library/web", "i", "exited", 1e9, exit_code=0)
    actions.record_contents(row.pk, Contents(row.epoch, (mine, by_hand), (ImageInfo("i", 5, 1e9, ("a:1",)),)))
    container = Container.objects.get(container_id="c" * 64)
    assert container.service_id == task.service_id
    assert container.isolation == "shim"
    assert container.collection_id == task.service.collection_id
    assert Container.objects.get(name="hand").collection_id == row.collection_id
    actions.record_contents(row.pk, Contents(row.epoch, (mine,), ()))
    assert Container.objects.get().pk == container.pk
    assert not NodeImage.objects.exists()


def test_a_node_cannot_claim_a_task_of_another_node(running: tuple[Node, Task]) -> None:
    _, task = running
    thief = fleet.node("thief")
    claimed = ContainerInfo("e" * 64, "x", "library/web", "i", "running", 1e9, task_id=task.pk)
    actions.record_contents(thief.pk, Contents(thief.epoch, (claimed,), ()))
    container = Container.objects.get(container_id="e" * 64)
    assert container.task_id is None
    assert container.collection_id == thief.collection_id


def test_the_ring_of_samples_never_grows_beyond_a_quarter_of_an_hour() -> None:
    row = fleet.node("one")
    UsageSample.objects.bulk_create(
        UsageSample(node=row, place=place, at=timezone.now() - timedelta(minutes=20), usage={"load1": 0}) for place in range(RING)
    )
    actions.record_samples(row.pk, Samples(row.epoch, 0.0, {"load1": 2.0}, {"abc": {"pids": 3.0}}))
    assert UsageSample.objects.count() == RING
    assert queries.samples(row.pk)[-1]["load1"] == 2
    assert [item["pids"] for item in queries.samples(row.pk, "abc")] == [3]


def test_pull_tokens_are_for_assigned_repositories_only(running: tuple[Node, Task]) -> None:
    row, _ = running
    assert queries.may_pull(row.pk, "library/web")
    assert not queries.may_pull(row.pk, "library/secret")
    assert not queries.may_pull(fleet.node("two").pk, "library/web")


def test_a_boot_id_that_comes_back_betrays_a_clone() -> None:
    row = fleet.node("one")
    fleet.link(row, boot_id="boot-2")
    assert Node.objects.get(pk=row.pk).availability == Availability.ACTIVE
    fleet.link(row, boot_id="boot-1")
    assert Node.objects.get(pk=row.pk).availability == Availability.PAUSE
    assert Event.objects.filter(kind="node.clone_suspected", target=f"node/{row.pk}").count() == 1


def test_contents_that_say_nothing_new_write_nothing(running: tuple[Node, Task], django_assert_max_num_queries: object) -> None:
    row, task = running
    infos = tuple(ContainerInfo(f"{n:064}", f"web.{n}", "library/web", "i", "running", 1e9, task_id=task.pk) for n in range(50))
    actions.record_contents(row.pk, Contents(row.epoch, infos, ()))
    with django_assert_max_num_queries(9) as queries_made:  # type: ignore[operator]  # pytest-django's fixture
        actions.record_contents(row.pk, Contents(row.epoch, infos, ()))
    assert not [query for query in queries_made if query["sql"].startswith("UPDATE")]
