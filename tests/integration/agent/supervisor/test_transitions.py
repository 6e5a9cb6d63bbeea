"""Creations and starts that take long, or for ever: nobody else waits, and they can be ended. Hooks make them long."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.containers.live import live_from
from agent.protocol.errors import WharfError
from agent.protocol.states import ContainerState
from agent.runtime.defaults import default_config
from agent.supervisor.leases import LeaseFile, now
from agent.supervisor.processes import start_time
from agent.supervisor.record import boot_id
from tests.integration.agent.supervisor.home import DEADLINE, Home, gone, until

pytestmark = pytest.mark.root


class Hook:
    """A program that says that it runs, and ends when it is let."""

    def __init__(self, path: Path, status: int = 0) -> None:
        self._said, self._flag = path / "said", path / "go"
        script = f"echo $$ > {self._said}.new; mv {self._said}.new {self._said}; until test -e {self._flag}; do sleep 0.02; done"
        words = ["sh", "-c", f"{script}; exit {status}"]
        self.entry: dict[str, Any] = {"path": "/bin/sh", "args": words, "env": [f"PATH={os.environ['PATH']}"]}
        self.pid = 0
        self.started: int | None = None

    async def runs(self) -> None:
        await until(self._said.exists, "the hook runs")
        self.pid = int(self._said.read_text())
        self.started = start_time(self.pid)

    def forget(self) -> None:
        """It will run again."""
        self._said.unlink()

    def let(self) -> None:
        self._flag.touch()

    @property
    def gone(self) -> bool:
        return gone(self.pid, self.started)


@pytest.fixture
def hook(home: Home, tmp_path: Path) -> Iterator[Hook]:
    hook = Hook(tmp_path)
    yield hook
    hook.let()  # a failed test's supervisor may wait for it


def config(hook: Hook, point: str, *args: str) -> dict[str, Any]:
    return {**default_config(list(args or ("sleep", "600"))), "hooks": {point: [hook.entry]}}


async def refused(task: asyncio.Task[Any]) -> str:
    with pytest.raises(WharfError) as caught:
        await task
    return caught.value.code


def nothing_of(home: Home, id_: str) -> bool:
    return not os.path.exists(os.path.join(home.statedir, id_)) and not any(path.endswith("/" + id_) for path in home.cgroups())


async def test_a_hook_that_hangs_keeps_nobody_else_waiting(home: Home, hook: Hook) -> None:
    file = LeaseFile(home.rundir, boot_id())
    file.grant(now() / 1e9, 3.0)
    check = {"Test": ["CMD", "true"], "Interval": 20_000_000, "Timeout": 5_000_000_000, "Retries": 1}
    await home.run("other", "sh", "-c", "while :; do echo here; usleep 20000; done", health=check, lease=3.0)
    making = asyncio.create_task(home.make("c1", config=config(hook, "createRuntime")))
    await hook.runs()
    seen = len(home.lines("other"))
    probes = (await home.client.state("other"))["health"]["log"]
    await until(lambda: len(home.lines("other")) > seen, "the log grows")
    async with asyncio.timeout(DEADLINE):
        while (await home.client.state("other"))["health"]["log"] == probes:
            await asyncio.sleep(0.01)
    await home.run("third", "true")
    await home.client.wait("third")
    record = await home.client.wait("other")  # its lease ends
    assert "lease" in record["error"]
    record = await home.client.state("c1")
    assert (record["state"], live_from(record, (), ()).state) == ("creating", ContainerState.CREATED)
    assert {record["id"] for record in await home.client.list()} == {"other", "third"}
    assert not making.done()
    hook.let()
    await making
    assert (await home.client.state("c1"))["state"] == "created"
    assert await home.client.start("c1") > 0


@pytest.mark.parametrize("isolation", ["shared", "shim"])
async def test_delete_with_force_ends_a_creation(home: Home, hook: Hook, isolation: str) -> None:
    making = asyncio.create_task(home.make("c1", config=config(hook, "prestart"), isolation=isolation))
    await hook.runs()
    with pytest.raises(WharfError) as second:
        await home.make("c1", "true")
    assert second.value.code == "container_exists"
    await home.client.delete("c1", force=True)
    assert await refused(making) == "interrupted"
    await until(lambda: hook.gone, "the hook is gone")
    assert nothing_of(home, "c1")
    await home.run("c1", "true")  # the id is free


async def test_a_kill_and_a_stop_end_what_hangs(home: Home, hook: Hook) -> None:
    making = asyncio.create_task(home.make("c1", config=config(hook, "createRuntime")))
    await hook.runs()
    await home.client.kill("c1", signal.SIGKILL)
    assert await refused(making) == "interrupted"
    assert nothing_of(home, "c1")
    await home.make("c1", config=config(hook, "poststart"))
    starting = asyncio.create_task(home.client.start("c1"))
    await until(lambda: hook.gone, "the hook of the creation is gone")
    hook.forget()
    await hook.runs()
    record = await home.client.stop("c1", signal.SIGTERM, 0.1)
    assert await refused(starting) == "interrupted"
    assert (record["state"], record["pid"]) == ("exited", 0)
    await until(lambda: hook.gone and not home.cgroups(), "hook and container are gone")


async def test_what_is_asked_of_a_container_meanwhile_comes_in_order(home: Home, hook: Hook) -> None:
    making = asyncio.create_task(home.make("c1", config=config(hook, "createRuntime")))
    await hook.runs()
    starting = asyncio.create_task(home.client.start("c1"))
    await home.client.hello()  # what was asked first has arrived first
    pausing = asyncio.create_task(home.client.pause("c1"))
    await home.client.hello()
    executing = asyncio.create_task(home.client.exec("c1", {"args": ["true"], "cwd": "/"}))
    await home.client.hello()
    resuming = asyncio.create_task(home.client.resume("c1"))
    await home.client.hello()
    stopping = asyncio.create_task(home.client.stop("c1", signal.SIGKILL, None))
    await home.client.hello()
    assert not any(task.done() for task in (making, starting, pausing, executing, resuming, stopping))
    hook.let()
    await making
    assert await starting > 0
    await pausing
    assert await refused(executing) == "container_paused"
    await resuming
    assert (await stopping)["exit_code"] == 137


async def test_an_end_while_the_poststart_hook_runs_is_told_after_it(home: Home, hook: Hook) -> None:
    await home.make("c1", config=config(hook, "poststart", "sh", "-c", "echo done; exit 3"))
    starting = asyncio.create_task(home.client.start("c1"))
    await hook.runs()
    await until(lambda: home.output("c1") == b"done\n" or None, "it has run")
    assert not starting.done()
    hook.let()
    assert await starting > 0
    assert (await home.client.wait("c1"))["exit_code"] == 3


async def test_a_process_killed_in_its_set_up(home: Home, hook: Hook) -> None:
    making = asyncio.create_task(home.make("c1", config=config(hook, "createRuntime")))
    await hook.runs()
    pids = [int(word) for path in home.cgroups() for word in Path(path, "cgroup.procs").read_text().split()]
    os.kill(pids[0], signal.SIGKILL)
    hook.let()
    with pytest.raises(WharfError, match="died during its set-up") as caught:
        await making
    assert caught.value.code == "runtime_failed"
    assert nothing_of(home, "c1")


@pytest.mark.parametrize("isolation", ["shared", "shim"])
async def test_a_kill_of_the_supervisor_leaves_nothing_of_a_creation(home: Home, hook: Hook, isolation: str) -> None:
    making = asyncio.create_task(home.make("c1", config=config(hook, "createRuntime"), isolation=isolation))
    await hook.runs()
    await home.crash()
    assert isinstance((await asyncio.gather(making, return_exceptions=True))[0], WharfError)
    assert await home.client.list() == []
    await until(lambda: hook.gone, "the hook is gone")
    assert nothing_of(home, "c1")
    await home.run("c1", "true")


async def test_an_upgrade_waits_for_a_creation(home: Home, hook: Hook) -> None:
    making = asyncio.create_task(home.make("c1", config=config(hook, "createRuntime")))
    await hook.runs()
    upgrading = asyncio.create_task(home.client.upgrade())
    hook.let()
    await making
    assert (await upgrading)["generation"] == 2
    assert await home.client.start("c1") > 0


async def test_an_upgrade_waits_no_longer_than_some_seconds(home: Home, hook: Hook) -> None:
    making = asyncio.create_task(home.make("c1", config=config(hook, "createRuntime")))
    await hook.runs()
    assert (await home.client.upgrade())["generation"] == 2
    assert await refused(making) == "interrupted"
    await until(lambda: hook.gone, "the hook is gone")
    assert await home.client.list() == []
    assert nothing_of(home, "c1")


async def test_a_failing_hook_ends_a_creation_and_its_poststop_hooks_run(home: Home, tmp_path: Path) -> None:
    (tmp_path / "after").mkdir()
    after = Hook(tmp_path / "after")
    wanted = default_config(["true"])
    wanted["hooks"] = {"prestart": [{"path": "/bin/false"}], "poststop": [after.entry]}
    making = asyncio.create_task(home.make("c1", config=wanted))
    await after.runs()
    await home.run("other", "true")
    assert not making.done()
    after.let()
    with pytest.raises(WharfError, match="error running hook prestart: /bin/false failed with exit status 1"):
        await making
    assert nothing_of(home, "c1")


async def test_many_at_once_leave_nothing(home: Home) -> None:
    async def one(number: int) -> None:
        id_ = f"m{number}"
        await home.make(id_, "sh", "-c", f"exit {number}")
        if number % 5 == 0:
            waiting = asyncio.create_task(home.client.wait(id_, next=True))
            await home.client.hello()
            await home.client.start(id_)
            assert (await waiting)["exit_code"] == number
        elif number % 5 < 4:
            await home.client.start(id_)
            assert (await home.client.wait(id_))["exit_code"] == number
        await home.client.delete(id_, force=True)

    before = len(os.listdir(f"/proc/{home.supervisor}/fd"))
    await asyncio.gather(*(one(number) for number in range(50)))
    await until(lambda: not home.cgroups(), "the cgroups are gone")
    await until(lambda: len(os.listdir(f"/proc/{home.supervisor}/fd")) <= before + 2, "its descriptors are closed")
    assert await home.client.list() == []
