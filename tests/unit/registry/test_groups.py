"""Group commit: who waits together is served together, and one that fails does not fail the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from agent.protocol.errors import NotFound, WharfError
from registry.v2.groups import Group

Run = Callable[[Sequence[int]], Sequence[int | WharfError]]


class Turns:
    """A thread that takes a turn when it is let, and what the turns were."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seen: list[list[int]] = []
        self.let = asyncio.Semaphore(0)

    async def thread(self, run: Run, items: Sequence[int]) -> Sequence[int | WharfError]:
        self.seen.append(list(items))
        await self.let.acquire()
        return run(items)

    def group(self) -> Group[int, int]:
        return Group(self.run, self.thread)


def doubled(items: Sequence[int]) -> list[int | WharfError]:
    return [item * 2 if item >= 0 else NotFound("negative") for item in items]


async def _start(group: Group[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.ensure_future(group.do(item)) for item in items]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_arrives_during_a_turn_shares_the_next() -> None:
    turns = Turns(doubled)
    group = turns.group()
    tasks = await _start(group, 1)
    tasks += await _start(group, 2, -3, 4)
    turns.let.release()
    turns.let.release()
    assert await asyncio.gather(tasks[0], tasks[1], tasks[3]) == [2, 4, 8]
    with pytest.raises(NotFound, match="negative"):
        await tasks[2]
    assert turns.seen == [[1], [2, -3, 4]]


async def test_a_turn_that_fails_is_done_one_by_one() -> None:
    def no_seven(items: Sequence[int]) -> list[int | WharfError]:
        if 7 in items:
            raise RuntimeError("seven")
        return doubled(items)

    turns = Turns(no_seven)
    group = turns.group()
    tasks = await _start(group, 1)
    tasks += await _start(group, 6, 7, 8)
    for _ in range(5):
        turns.let.release()
    with pytest.raises(RuntimeError, match="seven"):
        await tasks[2]
    assert await asyncio.gather(tasks[0], tasks[1], tasks[3]) == [2, 12, 16]
    assert turns.seen == [[1], [6, 7, 8], [6], [7], [8]]


async def test_a_client_that_leaves_takes_nobody_along() -> None:
    turns = Turns(doubled)
    group = turns.group()
    tasks = await _start(group, 1, 2)
    tasks[1].cancel()
    turns.let.release()
    turns.let.release()
    assert await tasks[0] == 2
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    (later,) = await _start(group, 5)
    turns.let.release()
    assert await later == 10


async def test_who_took_part_is_waited_for_a_moment() -> None:
    turns = Turns(doubled)
    group = turns.group()
    first = await _start(group, 1)
    rest = await _start(group, 2, 3)
    turns.let.release()
    turns.let.release()
    assert await asyncio.gather(*first, *rest) == [2, 4, 6]
    one = await _start(group, 4)
    assert len(turns.seen) == 2, "it waits for the other two"
    others = await _start(group, 5, 6)
    turns.let.release()
    assert await asyncio.gather(*one, *others) == [8, 10, 12]
    alone = await _start(group, 7)
    turns.let.release()
    assert await asyncio.gather(*alone) == [14], "they do not come again: it went without them"
    assert turns.seen == [[1], [2, 3], [4, 5, 6], [7]]
