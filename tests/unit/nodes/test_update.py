"""Cases of SwarmKit's updater tests, made level-triggered."""

import pytest

from agent.protocol.spec import FailureAction, RestartCondition, RestartPolicy, ServiceMode, UpdateConfig, UpdateOrder
from agent.protocol.states import TaskState
from nodes.snapshot import TaskView, UpdateState
from tests.unit.nodes.cluster import Cluster, spec

S = TaskState
NEW = "library/web:2"


def started(replicas: int = 4, nodes: int = 2, **fields: object) -> Cluster:
    cluster = Cluster(nodes)
    cluster.create(spec(replicas=replicas, **fields))
    cluster.run()
    return cluster


def templates(cluster: Cluster) -> list[str]:
    return sorted(task.template[-1] for task in cluster.running())


def new_version(outcome: str) -> object:
    return lambda task: outcome if task.template == NEW else "run"


@pytest.mark.parametrize("order", list(UpdateOrder))
@pytest.mark.parametrize("mode", list(ServiceMode))
def test_every_task_is_replaced_and_the_update_completes(mode: ServiceMode, order: UpdateOrder) -> None:
    cluster = started(mode=mode, replicas=4, nodes=4)
    cluster.update("s1", NEW, UpdateConfig(order=order))
    cluster.run(100)
    assert templates(cluster) == ["2"] * 4
    status = cluster.services["s1"].update
    assert status.state is UpdateState.COMPLETED
    assert status.total == 4
    assert status.finished >= status.started + 5, "the last slot is watched for one monitor period"


@pytest.mark.parametrize("parallelism", [1, 2, 3, 0])
def test_no_more_slots_than_parallelism_are_in_work(parallelism: int) -> None:
    cluster = started(replicas=6)
    cluster.update("s1", NEW, UpdateConfig(parallelism=parallelism))
    most = 0
    for _ in range(200):
        cluster.settle()
        in_work = {task.slot for task in cluster.tasks() if task.template == NEW and task.live and not task.running_at}
        most = max(most, len(in_work))
        if not cluster.agents():
            break
    assert most == (parallelism or 6)


def test_stop_first_never_runs_two_in_a_slot_and_start_first_never_none() -> None:
    for order, least, most in ((UpdateOrder.STOP_FIRST, 3, 4), (UpdateOrder.START_FIRST, 4, 5)):
        cluster = started(replicas=4)
        cluster.update("s1", NEW, UpdateConfig(order=order))
        counts = set()
        for _ in range(300):
            cluster.settle()
            counts.add(len(cluster.tasks(observed=S.RUNNING)))
            if not cluster.agents():
                break
        assert (min(counts), max(counts)) == (least, most)
        assert templates(cluster) == ["2"] * 4


def test_delay_between_slots() -> None:
    cluster = started(replicas=3)
    before = cluster.now
    cluster.update("s1", NEW, UpdateConfig(delay=10))
    cluster.run(9)
    assert templates(cluster) == ["1", "1", "2"]
    cluster.run(10)
    assert templates(cluster) == ["1", "2", "2"]
    cluster.run(60)
    status = cluster.services["s1"].update
    assert status.state is UpdateState.COMPLETED
    assert status.finished == before + 20 + 11, "delay >= monitor: watched for delay + 1 s"


@pytest.mark.parametrize("outcome", ["fail", "crash", "complete"])
def test_a_failing_update_pauses_and_stays_paused(outcome: str) -> None:
    cluster = started(replicas=4)
    cluster.outcome = new_version(outcome)  # type: ignore[assignment]  # see new_version
    cluster.update("s1", NEW)
    cluster.run(100)
    status = cluster.services["s1"].update
    assert status.state is UpdateState.PAUSED
    assert "1 of 4 updated slots failed" in status.message
    # Without a delay the next slot is in work as soon as the first one runs.
    assert templates(cluster).count("1") == (3 if outcome == "fail" else 2)
    cluster.update("s1", "library/web:3")
    cluster.run(100)
    assert templates(cluster) == ["3"] * 4
    assert cluster.services["s1"].update.state is UpdateState.COMPLETED


def test_a_task_that_ends_after_the_monitor_period_is_no_failure() -> None:
    cluster = started(replicas=2)
    cluster.outcome = lambda task: (
        "crash" if task.template == NEW and task.running_at and cluster.now > task.running_at + 6 else "run"
    )
    cluster.update("s1", NEW, UpdateConfig(delay=20))
    cluster.run(200)
    assert cluster.services["s1"].update.state is UpdateState.COMPLETED


def test_the_failure_ratio_is_tolerated_up_to_its_limit() -> None:
    for ratio, state in ((0.25, UpdateState.COMPLETED), (0.2, UpdateState.PAUSED)):
        cluster = started(replicas=4)
        broken: set[str] = set()

        def outcome(task: TaskView, broken: set[str] = broken) -> str:
            if task.template == NEW and task.slot == 2 and (not broken or task.id in broken):
                broken.add(task.id)
                return "fail"
            return "run"

        cluster.outcome = outcome
        cluster.update("s1", NEW, UpdateConfig(max_failure_ratio=ratio))
        cluster.run(200)
        assert cluster.services["s1"].update.state is state


def test_continue_goes_on_over_failures() -> None:
    cluster = started(replicas=4, restart=RestartPolicy(condition=RestartCondition.NONE))
    cluster.outcome = new_version("fail")  # type: ignore[assignment]  # see new_version
    cluster.update("s1", NEW, UpdateConfig(failure_action=FailureAction.CONTINUE))
    cluster.run(100)
    assert cluster.services["s1"].update.state is UpdateState.COMPLETED
    assert not cluster.running()


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_rollback_returns_every_slot_to_the_old_spec(order: UpdateOrder) -> None:
    cluster = started(replicas=4, nodes=3)
    cluster.outcome = new_version("crash")  # type: ignore[assignment]  # see new_version
    cluster.update("s1", NEW, UpdateConfig(failure_action=FailureAction.ROLLBACK, order=order))
    cluster.run(200)
    service = cluster.services["s1"]
    assert service.update.state is UpdateState.ROLLED_BACK
    assert templates(cluster) == ["1"] * 4
    assert not service.has_previous


def test_a_failing_rollback_pauses() -> None:
    cluster = started(replicas=4)
    cluster.outcome = lambda task: "crash"
    cluster.update("s1", NEW, UpdateConfig(failure_action=FailureAction.ROLLBACK))
    cluster.run(200)
    assert cluster.services["s1"].update.state is UpdateState.ROLLBACK_PAUSED


def test_without_a_previous_spec_a_rollback_pauses() -> None:
    import dataclasses

    cluster = started(replicas=2)
    cluster.outcome = new_version("crash")  # type: ignore[assignment]  # see new_version
    cluster.update("s1", NEW, UpdateConfig(failure_action=FailureAction.ROLLBACK))
    cluster.services["s1"] = dataclasses.replace(cluster.services["s1"], has_previous=False)
    cluster.run(200)
    assert cluster.services["s1"].update.state is UpdateState.PAUSED


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_a_task_that_never_runs_fails_at_the_progress_deadline(order: UpdateOrder) -> None:
    cluster = started(replicas=2)
    cluster.outcome = new_version("hang")  # type: ignore[assignment]  # see new_version
    cluster.update("s1", NEW, UpdateConfig(progress_deadline=600, order=order))
    cluster.run(599)
    assert cluster.services["s1"].update.state is UpdateState.UPDATING
    cluster.run(2)
    assert cluster.services["s1"].update.state is UpdateState.PAUSED


def test_start_first_that_fails_leaves_the_old_task_serving() -> None:
    cluster = started(replicas=1)
    cluster.outcome = new_version("fail")  # type: ignore[assignment]  # see new_version
    cluster.update("s1", NEW, UpdateConfig(order=UpdateOrder.START_FIRST))
    cluster.run(300)
    assert templates(cluster) == ["1"]


def test_scaling_does_not_replace_running_tasks_and_new_ones_get_the_current_spec() -> None:
    cluster = started(replicas=2)
    cluster.outcome = new_version("fail")  # type: ignore[assignment]  # see new_version
    cluster.update("s1", NEW)
    cluster.run(50)
    assert cluster.services["s1"].update.state is UpdateState.PAUSED
    cluster.outcome = lambda task: "run"
    cluster.scale("s1", 3)
    cluster.run(50)
    assert templates(cluster) == ["1", "2", "2"]


def test_an_update_during_an_update_supersedes_it() -> None:
    cluster = started(replicas=4)
    cluster.update("s1", NEW, UpdateConfig(delay=30))
    cluster.run(35)
    cluster.update("s1", "library/web:3", UpdateConfig())
    cluster.run(100)
    assert templates(cluster) == ["3"] * 4
    assert cluster.services["s1"].update.total == 4


def test_a_service_update_that_changes_no_template_replaces_nothing() -> None:
    cluster = started(replicas=3)
    cluster.update("s1", labels={"a": "b"})
    cluster.run(50)
    assert cluster.made == 3


def test_a_host_port_moves_to_the_new_version_on_the_same_node() -> None:
    cluster = Cluster(1)
    cluster.create(spec(replicas=1, port=8080))
    cluster.run()
    cluster.update("s1", NEW)
    cluster.run(100)
    assert templates(cluster) == ["2"]


def test_a_node_lost_in_an_update_does_not_stop_it() -> None:
    cluster = started(replicas=6, nodes=3)
    cluster.update("s1", NEW, UpdateConfig(delay=5))
    cluster.run(7)
    cluster.down("n1")
    cluster.run(200)
    assert templates(cluster) == ["2"] * 6
    assert cluster.services["s1"].update.state is UpdateState.COMPLETED


def test_a_pause_leaves_no_slot_with_two_running_tasks() -> None:
    """Start-first, two slots in work: one fails and pauses the update while the other has not run yet."""
    cluster = started(replicas=4)
    cluster.outcome = lambda task: "hang" if task.template == NEW else "run"
    cluster.update("s1", NEW, UpdateConfig(order=UpdateOrder.START_FIRST, parallelism=2))
    cluster.run()
    first, second = sorted(task.id for task in cluster.tasks() if task.template == NEW)
    cluster.report(first, S.FAILED)
    cluster.settle()
    assert cluster.services["s1"].update.state is UpdateState.PAUSED
    cluster.outcome = lambda task: "run" if task.id != first else "hang"
    cluster.run(60)
    assert cluster.rows[second].observed is S.RUNNING
    slots = [task.slot for task in cluster.running()]
    assert sorted(slots) == [1, 2, 3, 4]
