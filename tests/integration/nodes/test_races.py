"""Real threads on the real database: one winner, no deadlock, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from agent.protocol.states import TaskState
from nodes import actions, queries
from nodes.errors import JoinRefused
from nodes.models import HostPort, Node, Task
from nodes.orchestrator import reconcile
from nodes.scheduler import Assignment, Plan
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db(transaction=True)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run all at once; results (or the exceptions) in order."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(index: int, work: Callable[[], Any]) -> None:
        barrier.wait(20)
        try:
            results[index] = work()
        except Exception as error:  # noqa: BLE001  # handed to the test
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(index, work)) for index, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a deadlock"
    return results


@pytest.fixture
def waiting() -> list[Task]:
    fleet.image()
    actions.create_service(fleet.user("root", admin=True), fleet.spec(replicas=4, memory=3 * fleet.GIB, port=8080))
    snapshot = queries.cluster_snapshot()
    actions.apply(reconcile(snapshot), snapshot)
    return list(Task.objects.all())


def test_of_two_assignments_of_one_task_one_wins(waiting: list[Task]) -> None:
    one, two = fleet.node("one"), fleet.node("two")
    plans = [Plan((Assignment(waiting[0].pk, node.pk),)) for node in (one, two)]
    assert sorted(together(*(lambda plan=plan: actions.assign(plan) for plan in plans))) == [0, 1]
    assert HostPort.objects.count() == 1


def test_of_two_tasks_for_one_place_one_wins(waiting: list[Task]) -> None:
    one = fleet.node("one", memory=4 * fleet.GIB)
    plans = [Plan((Assignment(task.pk, one.pk),)) for task in waiting]
    assert sorted(together(*(lambda plan=plan: actions.assign(plan) for plan in plans))) == [0, 0, 0, 1]
    assert Task.objects.occupying().count() == 1


def test_two_reconcilers_make_each_task_once() -> None:
    fleet.image()
    admin = fleet.user("root", admin=True)
    for name in ("one", "two"):
        fleet.node(name)
    for index in range(4):
        actions.create_service(admin, fleet.spec(f"web{index}", replicas=3))
    results = together(*(actions.reconcile_round for _ in range(3)))
    assert not [result for result in results if isinstance(result, Exception)], results
    assert Task.objects.count() == 12
    assert Task.objects.filter(observed=TaskState.ASSIGNED).count() == 12


def test_reports_rounds_and_leases_do_not_deadlock() -> None:
    fleet.image()
    admin = fleet.user("root", admin=True)
    rows = [fleet.node(name) for name in ("one", "two")]
    service = actions.create_service(admin, fleet.spec(replicas=12))
    actions.reconcile_round()

    def report(node: Node) -> int:
        done = 0
        for state in (TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY, TaskState.RUNNING):
            tasks = Task.objects.assigned_to(node.pk)
            done += actions.report(node.pk, node.epoch, [fleet.status(task, state) for task in tasks])
            actions.touch_leases({node.pk: node.session}, web_id="web-1")
        return done

    def rescale() -> None:
        for replicas in (9, 6, 12):
            actions.scale(admin, service, replicas)
            actions.reconcile_round()

    results = together(lambda: report(rows[0]), lambda: report(rows[1]), rescale, actions.sweep)
    assert not [result for result in results if isinstance(result, Exception)], results
    fleet.obey()
    assert sum(fleet.running(service).values()) == 12


def test_the_last_use_of_a_token_makes_one_node() -> None:
    from controlplane.pki.cluster import ensure_authorities
    from tests.integration.nodes.test_joining import csr

    ensure_authorities()
    _, text = actions.create_join_token(fleet.user("root", admin=True))
    requests = [csr() for _ in range(3)]
    results = together(*(lambda request=request: actions.join(text, request, "h", address="::1") for request in requests))
    assert sum(isinstance(result, JoinRefused) for result in results) == 2, results
    assert Node.objects.count() == 1
