"""Shared downloads: one a key, three at once, cancelled with the last waiter."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.images.threads import in_thread
from agent.images.transfers import Progress, Together, Transfers
from agent.protocol.errors import Conflict


def ignore(event: dict[str, Any]) -> None:
    pass


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_waiters_share_one_transfer() -> None:
    transfers, go, starts = Transfers(), asyncio.Event(), 0
    events: list[dict[str, Any]] = []

    async def start(report: Progress) -> None:
        nonlocal starts
        starts += 1
        report({"current": 1})
        await go.wait()

    waiters = [asyncio.create_task(transfers.fetch("k", start, events.append)) for _ in range(5)]
    await settle()
    waiters[0].cancel()
    await settle()
    go.set()
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 4
    assert starts == 1
    assert events == [{"current": 1}] * 5


async def test_the_last_waiter_takes_the_transfer_along() -> None:
    transfers, ended = Transfers(), asyncio.Event()

    async def start(report: Progress) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiters = [asyncio.create_task(transfers.fetch("k", start, ignore)) for _ in range(2)]
    await settle()
    for waiter in waiters:
        assert not ended.is_set()
        waiter.cancel()
        await settle()
    assert ended.is_set()


async def test_somebody_elses_failure_is_not_ours() -> None:
    transfers, go = Transfers(), asyncio.Event()

    async def bad(report: Progress) -> None:
        await go.wait()
        raise Conflict("bad credentials")

    async def good(report: Progress) -> None:
        return

    first = asyncio.create_task(transfers.fetch("k", bad, ignore))
    await settle()
    second = asyncio.create_task(transfers.fetch("k", good, ignore))
    await settle()
    go.set()
    await second
    with pytest.raises(Conflict):
        await first


async def test_three_at_once() -> None:
    transfers, go = Transfers(3), asyncio.Event()
    running = most = 0

    async def start(report: Progress) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    waiters = [asyncio.create_task(transfers.fetch(str(number), start, ignore)) for number in range(8)]
    await settle()
    assert running == 3
    go.set()
    await asyncio.gather(*waiters)
    assert most == 3


async def test_together_raises_the_first_error_itself() -> None:
    async def fail() -> None:
        raise Conflict("no")

    async def both() -> None:
        async with Together() as group:
            group.create_task(fail())
            await asyncio.Event().wait()

    with pytest.raises(Conflict):
        await both()


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    loop = asyncio.get_running_loop()
    began, go, ended = asyncio.Event(), asyncio.Event(), []

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(30)
        ended.append(1)

    task = asyncio.create_task(in_thread(work))
    await began.wait()
    task.cancel()
    await settle()
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]
