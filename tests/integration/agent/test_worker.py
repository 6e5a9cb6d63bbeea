"""The worker with real containers: how tasks end, agents that restart in every state, assignments that change meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.protocol import messages as m
from agent.protocol.errors import NotFound, Unavailable
from agent.protocol.spec import HealthCheck, Resources
from agent.protocol.states import TaskState
from agent.worker import worker as worker_module
from agent.worker.worker import Worker
from tests.integration.agent.test_containers import Bench
from tests.nodes import PrivateNode

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]
S = TaskState
WAIT = 20.0


class Pulls:
    """A puller that has the image, once `gate` is open; `failures` are raised first, one a call."""

    def __init__(self, image_id: str) -> None:
        self.image_id = image_id
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.asked = 0

    async def ensure(self, image: str, progress: Callable[[str], None]) -> str:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        progress(f"pulling {image}")
        await self.gate.wait()
        return self.image_id


class Desk:
    """A worker over the bench's containers, and the control plane's half by hand."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.pulls = Pulls(bench.image)
        self.reported: list[m.TaskStatus] = []
        self.rev = 0
        self.start()

    def start(self) -> None:
        self.worker = Worker(
            self.bench.home / "state", self.bench.containers, self.pulls, boot_id="b", report=self.reported.append
        )
        self.worker.start()

    def assign(self, *tasks: m.TaskAssignment) -> None:
        self.rev += 1
        assert self.worker.assignments.replace(m.AssignmentsFull(1, self.rev, tasks))
        self.worker.reconcile()

    def task(self, *command: str, desired: TaskState = S.RUNNING, name: str = "t1", **spec: Any) -> m.TaskAssignment:
        made = replace(self.bench.spec, args=command or ("sleep", "1000"), **spec)
        return m.TaskAssignment(name, "s1", "web", 1, desired, made, "library/web@sha256:" + "a" * 64)

    def status(self, name: str = "t1") -> m.TaskStatus | None:
        return next((status for status in self.worker.statuses() if status.task_id == name), None)

    async def reached(self, state: TaskState | None, name: str = "t1") -> m.TaskStatus:
        """Wait until the task is at `state`; None: until it is forgotten."""
        async with asyncio.timeout(WAIT):
            while True:
                status = self.status(name)
                if (status.observed if status else None) == state:
                    return status  # type: ignore[return-value]  # None only when it was asked for
                assert status is None or state is None or status.observed <= state, status
                await asyncio.sleep(0.01)

    async def restart(self) -> None:
        """The agent dies and another one starts: nothing in memory survives, containers run on."""
        await self.worker.stop()
        await self.bench.close()
        await self.bench.open()
        self.start()


@pytest.fixture
async def desk(private_node: PrivateNode, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(worker_module, "RETRY", 0.05)
    bench = Bench(private_node.home, private_node.cgroup)
    await bench.open()
    bench.image = await bench.load()
    desk = Desk(bench)
    yield desk
    await desk.worker.stop()
    await bench.end()


@pytest.mark.parametrize(("code", "state"), [(0, S.COMPLETE), (3, S.FAILED)])
async def test_exit_codes(desk: Desk, code: int, state: TaskState) -> None:
    desk.assign(desk.task("sh", "-c", f"exit {code}"))
    status = await desk.reached(state)
    assert (status.exit_code, status.oom_killed) == (code, False)
    seen = [item.observed for item in desk.reported]
    assert seen == sorted(seen), "states only grow"
    assert {S.ACCEPTED, S.PREPARING, S.READY, S.STARTING} <= set(seen)


async def test_a_command_that_is_not_there_fails_with_its_reason(desk: Desk) -> None:
    desk.assign(desk.task("/no/such/program"))
    status = await desk.reached(S.FAILED)
    assert "/no/such/program" in status.error


async def test_a_failing_health_check_fails_the_task(desk: Desk) -> None:
    check = HealthCheck(test=("false",), interval=0.2, timeout=1.0, retries=2, start_period=0.0)
    desk.assign(desk.task(health=check))
    status = await desk.reached(S.FAILED)
    assert status.message == "unhealthy"
    assert S.RUNNING not in {item.observed for item in desk.reported}, "it never was healthy"


async def test_a_task_over_its_memory_says_so(desk: Desk) -> None:
    hungry = ("sh", "-c", "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done")
    desk.assign(desk.task(*hungry, resources=Resources(memory=16 << 20)))
    status = await desk.reached(S.FAILED)
    assert status.oom_killed
    assert "memory" in status.error


async def test_an_agent_that_restarts_while_the_task_runs_adopts_it(desk: Desk) -> None:
    desk.assign(desk.task())
    before = await desk.reached(S.RUNNING)
    await desk.restart()
    status = desk.status()
    assert status is not None
    assert (status.observed, status.pid) == (S.RUNNING, before.pid)
    live = desk.bench.containers.live(before.container_id)
    assert live is not None
    assert live.pid == before.pid
    desk.assign()
    await desk.reached(None)
    assert not list(desk.bench.containers.records)


async def test_an_exit_while_no_agent_watched_is_still_known(desk: Desk) -> None:
    desk.assign(desk.task("sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 5"))
    running = await desk.reached(S.RUNNING)
    await desk.worker.stop()
    await desk.bench.close()
    os.close(os.open(f"/proc/{running.pid}/root/tmp/go", os.O_CREAT | os.O_WRONLY))
    async with asyncio.timeout(WAIT):
        while os.path.exists(f"/proc/{running.pid}"):
            await asyncio.sleep(0.01)
    await desk.bench.open()
    desk.start()
    assert (await desk.reached(S.FAILED)).exit_code == 5


async def test_an_agent_that_restarts_while_it_pulls_pulls_again(desk: Desk) -> None:
    desk.pulls.gate.clear()
    desk.assign(desk.task())
    await desk.reached(S.PREPARING)
    await desk.restart()
    assert desk.status().observed is S.PREPARING  # type: ignore[union-attr]  # it was there before
    desk.pulls.gate.set()
    await desk.reached(S.RUNNING)
    assert len(list(desk.bench.containers.records)) == 1


async def test_an_agent_that_restarts_with_a_prepared_task_starts_it_when_wanted(desk: Desk) -> None:
    desk.assign(desk.task(desired=S.READY))
    ready = await desk.reached(S.READY)
    await desk.restart()
    assert (await desk.reached(S.READY)).container_id == ready.container_id
    desk.assign(desk.task(desired=S.RUNNING))
    assert (await desk.reached(S.RUNNING)).container_id == ready.container_id


async def test_an_agent_that_died_between_creation_and_its_note_makes_no_second_container(desk: Desk) -> None:
    task = desk.task()
    await desk.bench.containers.create(
        worker_module.task_spec(task), image_id=desk.bench.image, name=worker_module.task_name(task), task_id="t1"
    )
    desk.assign(task)
    await desk.reached(S.RUNNING)
    assert len(list(desk.bench.containers.records)) == 1


async def test_an_agent_that_died_between_the_note_and_the_start_starts_it(desk: Desk) -> None:
    desk.assign(desk.task(desired=S.READY))
    await desk.reached(S.READY)
    await desk.worker.stop()
    record = next(iter(desk.worker._records))
    desk.worker._records.put(record.advance(S.STARTING, 1.0))
    await desk.bench.close()
    await desk.bench.open()
    desk.start()
    desk.assign(desk.task())
    await desk.reached(S.RUNNING)


async def test_an_assignment_dropped_while_it_is_pulled_leaves_nothing(desk: Desk) -> None:
    desk.pulls.gate.clear()
    desk.assign(desk.task())
    await desk.reached(S.PREPARING)
    async with asyncio.timeout(WAIT):
        while not desk.pulls.asked:
            await asyncio.sleep(0.01)
    desk.assign()
    await desk.reached(None)
    desk.pulls.gate.set()
    assert not list(desk.bench.containers.records)
    assert not desk.worker._runners


async def test_a_stop_while_it_starts_is_obeyed(desk: Desk) -> None:
    check = HealthCheck(test=("false",), interval=0.2, timeout=1.0, retries=1000, start_period=60.0)
    desk.assign(desk.task(health=check))
    await desk.reached(S.STARTING)
    desk.assign(desk.task(health=check, desired=S.SHUTDOWN))
    status = await desk.reached(S.SHUTDOWN)
    live = desk.bench.containers.live(status.container_id)
    assert live is not None
    assert not live.running


async def test_a_registry_that_is_away_for_a_moment_costs_no_task(desk: Desk) -> None:
    desk.pulls.failures = [Unavailable("the registry is away"), Unavailable("the registry is away")]
    desk.assign(desk.task())
    await desk.reached(S.RUNNING)
    assert desk.pulls.asked == 3
    assert "the registry is away" in [item.error for item in desk.reported]


async def test_an_image_that_does_not_exist_rejects_at_once(desk: Desk) -> None:
    desk.pulls.failures = [NotFound("no such image")]
    desk.assign(desk.task())
    assert (await desk.reached(S.REJECTED)).error == "no such image"
    assert desk.pulls.asked == 1


async def test_an_adopting_agent_stops_nothing_it_does_not_know_even_after_a_restart(desk: Desk) -> None:
    desk.assign(desk.task())
    before = await desk.reached(S.RUNNING)
    desk.worker.assignments.set_adopting(True)
    desk.assign()
    await desk.restart()
    desk.worker.reconcile()
    desk.assign(desk.task(name="t2"))
    await desk.reached(S.RUNNING, "t2")  # it works, and still leaves the unknown one alone
    assert os.path.exists(f"/proc/{before.pid}")
    desk.worker.assignments.set_adopting(False)
    desk.worker.reconcile()
    await desk.reached(None)
    assert not os.path.exists(f"/proc/{before.pid}")


async def test_a_full_disk_stops_no_stopping(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state directory cannot be written: what is wanted is still enforced, and noted when there is room again."""
    desk.assign(desk.task())
    running = await desk.reached(S.RUNNING)
    full = True

    def put(record: Any) -> None:
        if full:
            raise OSError(28, "No space left on device")
        real(record)

    real = desk.worker._records.put
    monkeypatch.setattr(desk.worker._records, "put", put)
    desk.assign(desk.task(desired=S.SHUTDOWN))
    async with asyncio.timeout(WAIT):
        while os.path.exists(f"/proc/{running.pid}"):
            await asyncio.sleep(0.01)
    assert desk.status().observed is S.RUNNING  # type: ignore[union-attr]  # it was there before
    full = False
    await desk.reached(S.SHUTDOWN)
