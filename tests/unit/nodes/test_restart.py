"""Cases of SwarmKit's restart tests, as a table, and the mechanics of the delayed replacement."""

import pytest

from agent.protocol.spec import RestartCondition, RestartPolicy, ServiceMode
from agent.protocol.states import TaskState
from tests.unit.nodes.cluster import Cluster, spec

S = TaskState
ANY, ON_FAILURE, NONE = RestartCondition.ANY, RestartCondition.ON_FAILURE, RestartCondition.NONE


@pytest.mark.parametrize("mode", list(ServiceMode))
@pytest.mark.parametrize(
    ("condition", "outcome", "restarted"),
    [
        (ANY, "fail", True),
        (ANY, "crash", True),
        (ANY, "complete", True),
        (ON_FAILURE, "fail", True),
        (ON_FAILURE, "crash", True),
        (ON_FAILURE, "complete", False),
        (NONE, "fail", False),
        (NONE, "crash", False),
        (NONE, "complete", False),
    ],
)
def test_condition(mode: ServiceMode, condition: RestartCondition, outcome: str, restarted: bool) -> None:
    cluster = Cluster(1)
    cluster.outcome = lambda task: outcome if task.id == "t00001" else "run"
    cluster.create(spec(mode=mode, restart=RestartPolicy(condition=condition, delay=5)))
    cluster.run(60)
    assert len(cluster.running()) == int(restarted)
    assert cluster.made == 1 + restarted


@pytest.mark.parametrize("mode", list(ServiceMode))
@pytest.mark.parametrize(
    ("attempts", "window", "seconds", "made"),
    [
        (0, 0, 95, 11),  # no limit: one every 10 s, the last one waits
        (3, 0, 1000, 4),  # counted for ever
        (3, 5, 95, 11),  # a window shorter than the delay never fills
        (2, 60, 59, 3),  # two in the first minute
        (2, 60, 61, 4),  # the first left the window at 60 s: another one
        (2, 60, 71, 5),  # and the second at 70 s
    ],
)
def test_attempts_within_the_window(mode: ServiceMode, attempts: int, window: float, seconds: float, made: int) -> None:
    cluster = Cluster(1)
    cluster.outcome = lambda task: "fail"
    cluster.create(spec(mode=mode, restart=RestartPolicy(condition=ANY, delay=10, max_attempts=attempts, window=window)))
    cluster.run(seconds)
    assert cluster.made == made


def test_a_new_generation_starts_the_count_anew() -> None:
    cluster = Cluster(1)
    cluster.outcome = lambda task: "fail"
    cluster.create(spec(restart=RestartPolicy(delay=1, max_attempts=2)))
    cluster.run(100)
    assert cluster.made == 3
    cluster.outcome = lambda task: "run"
    cluster.update("s1", "library/web:2")
    cluster.run(100)
    assert len(cluster.running()) == 1


def test_the_replacement_is_prepared_at_once_and_started_after_the_delay() -> None:
    cluster = Cluster(1)
    cluster.outcome = lambda task: "crash" if task.id == "t00001" else "run"
    cluster.create(spec(restart=RestartPolicy(delay=5)))
    cluster.run(4)
    (new,) = [task for task in cluster.tasks() if task.id == "t00002"]
    assert (new.desired, new.observed) == (S.READY, S.READY)
    cluster.run(2)
    assert cluster.rows["t00002"].observed is S.RUNNING


def test_a_replacement_waits_a_minute_at_most_for_a_task_that_does_not_stop() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=1))
    cluster.run()
    (old,) = cluster.running()
    stubborn = cluster.next_state
    cluster.next_state = lambda task: None if task.id == old.id and not task.live else stubborn(task)  # type: ignore[method-assign]
    cluster.update("s1", "library/web:2")
    cluster.run(59)
    assert not [task for task in cluster.running() if task.id != old.id]
    cluster.run(2)
    assert [task.template for task in cluster.running()] == ["library/web:2"]


def test_a_rejected_task_is_replaced_and_counts_against_its_node() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=1, restart=RestartPolicy(delay=0)))
    cluster.settle()
    first = cluster.rows["t00001"]
    cluster.report(first.id, S.REJECTED)
    cluster.settle()
    assert cluster.restarts[0].failed
    assert cluster.restarts[0].node_id == first.node_id
