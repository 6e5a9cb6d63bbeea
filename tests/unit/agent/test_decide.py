"""The task's next act, over every combination of what is wanted, reached and there."""

import itertools

import pytest

from agent.protocol.states import ContainerState, Health, TaskState
from agent.worker.decide import Act, View, decide

CREATED = View(ContainerState.CREATED)
RUNNING = View(ContainerState.RUNNING)
EXITED = View(ContainerState.EXITED)


@pytest.mark.parametrize(
    ("desired", "observed", "container", "act"),
    [
        (TaskState.RUNNING, TaskState.ASSIGNED, None, Act.ACCEPT),
        (TaskState.RUNNING, TaskState.ACCEPTED, None, Act.PREPARE),
        (TaskState.RUNNING, TaskState.PREPARING, None, Act.CREATE),
        (TaskState.RUNNING, TaskState.READY, CREATED, Act.START),
        (TaskState.RUNNING, TaskState.STARTING, CREATED, Act.START),
        (TaskState.RUNNING, TaskState.STARTING, RUNNING, Act.RUNNING),
        (TaskState.RUNNING, TaskState.STARTING, View(ContainerState.RUNNING, Health.STARTING), Act.NOTHING),
        (TaskState.RUNNING, TaskState.STARTING, View(ContainerState.RUNNING, Health.HEALTHY), Act.RUNNING),
        (TaskState.RUNNING, TaskState.RUNNING, RUNNING, Act.NOTHING),
        (TaskState.RUNNING, TaskState.RUNNING, EXITED, Act.EXITED),
        (TaskState.RUNNING, TaskState.RUNNING, None, Act.LOST),
        (TaskState.RUNNING, TaskState.RUNNING, View(ContainerState.RUNNING, Health.UNHEALTHY), Act.STOP),
        (TaskState.RUNNING, TaskState.FAILED, EXITED, Act.NOTHING),
        (TaskState.READY, TaskState.PREPARING, None, Act.CREATE),
        (TaskState.READY, TaskState.READY, CREATED, Act.NOTHING),
        (TaskState.SHUTDOWN, TaskState.RUNNING, RUNNING, Act.STOP),
        (TaskState.SHUTDOWN, TaskState.RUNNING, EXITED, Act.STOPPED),
        (TaskState.SHUTDOWN, TaskState.PREPARING, None, Act.STOPPED),
        (TaskState.SHUTDOWN, TaskState.SHUTDOWN, EXITED, Act.NOTHING),
        (TaskState.REMOVE, TaskState.RUNNING, RUNNING, Act.STOP),
        (TaskState.REMOVE, TaskState.SHUTDOWN, EXITED, Act.REMOVE),
        (TaskState.REMOVE, TaskState.SHUTDOWN, None, Act.NOTHING),
        (None, TaskState.RUNNING, RUNNING, Act.STOP),
        (None, TaskState.SHUTDOWN, EXITED, Act.REMOVE),
        (None, TaskState.SHUTDOWN, None, Act.FORGET),
    ],
)
def test_next_act(desired: TaskState | None, observed: TaskState, container: View | None, act: Act) -> None:
    assert decide(desired, observed, container) is act


def play(desired: TaskState | None, observed: TaskState, container: View | None) -> list[Act]:
    """A node on which every act succeeds at once; the acts until nothing is left to do."""
    acts: list[Act] = []
    while (act := decide(desired, observed, container)) is not Act.NOTHING:
        acts.append(act)
        assert len(acts) < 12, f"no end: {acts}"
        if act is Act.FORGET:
            break
        observed, container = apply(act, observed, container)
    return acts


def apply(act: Act, observed: TaskState, container: View | None) -> tuple[TaskState, View | None]:
    reached = {
        Act.ACCEPT: TaskState.ACCEPTED,
        Act.PREPARE: TaskState.PREPARING,
        Act.CREATE: TaskState.READY,
        Act.START: TaskState.STARTING,
        Act.RUNNING: TaskState.RUNNING,
        Act.EXITED: TaskState.FAILED,
        Act.LOST: TaskState.FAILED,
        Act.STOPPED: TaskState.SHUTDOWN,
    }.get(act, observed)
    if act is Act.STOP and not observed.terminal:
        reached = TaskState.SHUTDOWN
    there = {Act.CREATE: CREATED, Act.START: RUNNING, Act.STOP: EXITED, Act.REMOVE: None}
    return max(observed, reached), there.get(act, container)


STATES = [state for state in TaskState if TaskState.ASSIGNED <= state <= TaskState.REJECTED]


@pytest.mark.parametrize(("observed", "container"), list(itertools.product(STATES, [None, CREATED, RUNNING, EXITED])))
@pytest.mark.parametrize("desired", [None, TaskState.READY, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE])
def test_every_state_comes_to_rest(desired: TaskState | None, observed: TaskState, container: View | None) -> None:
    play(desired, observed, container)


@pytest.mark.parametrize(("observed", "container"), list(itertools.product(STATES, [None, CREATED, RUNNING, EXITED])))
def test_an_unassigned_task_leaves_nothing(observed: TaskState, container: View | None) -> None:
    acts = play(None, observed, container)
    assert acts[-1] is Act.FORGET
    assert container is None or Act.REMOVE in acts


def test_a_new_task_runs_in_the_order_of_its_states() -> None:
    assert play(TaskState.RUNNING, TaskState.ASSIGNED, None) == [Act.ACCEPT, Act.PREPARE, Act.CREATE, Act.START, Act.RUNNING]
