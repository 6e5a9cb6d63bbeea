"""Two steps at once: neither outlives the call."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agent.containers.both import both


async def fails() -> None:
    raise LookupError("first")


async def test_what_both_return_is_returned_in_order() -> None:
    async def slow() -> str:
        await asyncio.sleep(0)
        return "slow"

    async def fast() -> int:
        return 1

    assert await both(slow(), fast()) == ("slow", 1)


async def test_an_error_waits_for_the_other_step() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        assert go.wait(10)
        done.set()

    asyncio.get_running_loop().call_later(0.05, go.set)
    with pytest.raises(LookupError, match="first"):
        await both(fails(), asyncio.to_thread(work))
    assert done.is_set()


async def test_of_two_errors_the_first_steps_is_raised() -> None:
    async def fails_too() -> None:
        raise OSError("second")

    with pytest.raises(LookupError):
        await both(fails(), fails_too())


async def test_a_cancellation_waits_for_threads() -> None:
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go.wait(10)
        done.set()

    async def nothing() -> None:
        pass

    waiting = asyncio.create_task(both(nothing(), asyncio.to_thread(work)))
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    asyncio.get_running_loop().call_later(0.05, go.set)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done.is_set()
