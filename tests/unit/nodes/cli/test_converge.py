"""When waiting for a service is over."""

from __future__ import annotations

from typing import Any

import pytest

from nodes.cli.converge import judge


def service(replicas: int = 2, *, state: str = "", mode: str = "replicated", **spec: Any) -> dict[str, Any]:
    return {"name": "web", "spec": {"mode": mode, "replicas": replicas, **spec}, "update_status": {"state": state}}


def task(observed: str, *, desired: str = "running", **more: Any) -> dict[str, Any]:
    fields = {"error": "", "message": "", "exit_code": None, "oom_killed": False, "why_pending": {}, "hostname": ""}
    return {**fields, "desired": desired, "observed": observed, **more}


def test_all_run() -> None:
    standing = judge(service(), [task("running"), task("running")])
    assert (standing.running, standing.wanted, standing.done, standing.hopeless) == (2, 2, True, "")


def test_none_wanted_is_done() -> None:
    assert judge(service(0), []).done


@pytest.mark.parametrize("observed", ["new", "pending", "preparing", "starting"])
def test_not_yet(observed: str) -> None:
    assert not judge(service(), [task("running"), task(observed)]).done


def test_one_too_many_is_not_done() -> None:
    assert not judge(service(1), [task("running"), task("starting")]).done


def test_the_scheduler_explains() -> None:
    text = "no suitable node (1 node: 1 constraint node.labels.zone==moon)"
    assert judge(service(1), [task("pending", why_pending={"text": text})]).reason == text


def test_tasks_that_keep_failing_end_it_with_the_newest_reason() -> None:
    ended = [task("failed", desired="shutdown", error=f"exit {n}") for n in (3, 2, 1)]
    standing = judge(service(1), [task("pending"), *ended])
    assert "keep failing: exit 3" in standing.hopeless
    assert judge(service(1), [task("running"), *ended]).hopeless == "", "it came up in the end"
    assert judge(service(1), [task("pending"), *ended[:2]]).hopeless == ""


def test_a_task_that_is_not_restarted_ends_it() -> None:
    failed = task("failed", exit_code=3, oom_killed=True, desired="shutdown")
    standing = judge(service(1, restart={"condition": "none"}), [failed])
    assert "exit code 3, out of memory" in standing.hopeless


def test_a_task_that_ends_well_once_counts() -> None:
    complete = task("complete", desired="shutdown", exit_code=0)
    assert judge(service(1, restart={"condition": "on-failure"}), [complete]).done
    assert not judge(service(1), [complete]).done, "any: it is started again"


def test_an_update_has_to_begin_and_to_end() -> None:
    running = [task("running"), task("running")]
    assert not judge(service(), running, expect_update=True).done, "the orchestrator has not seen it yet"
    assert not judge(service(state="updating"), running, expect_update=True).done
    assert judge(service(state="completed"), running, expect_update=True).done


@pytest.mark.parametrize("state", ["paused", "rollback_paused", "rollback_completed"])
def test_an_update_that_stopped_is_no_success(state: str) -> None:
    assert judge(service(state=state), [task("running"), task("running")], expect_update=True).hopeless


def test_a_rollback_that_was_asked_for_is_one() -> None:
    standing = judge(service(state="rollback_completed"), [task("running"), task("running")], expect_rollback=True)
    assert (standing.done, standing.hopeless) == (True, "")


def test_a_global_service_without_a_node_waits_and_says_why() -> None:
    standing = judge(service(mode="global"), [])
    assert not standing.done
    assert standing.reason == "no node fits its constraints"
    assert judge(service(mode="global"), [task("running")]).done
