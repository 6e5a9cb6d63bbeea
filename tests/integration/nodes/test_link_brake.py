"""Adopt mode and the mass-failure brake, with real links."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agent.protocol import messages as m
from agent.protocol.states import NodeState, TaskState
from controlplane.events.models import Event
from nodes import actions
from nodes.models import Action, Node, Task, Watch
from tests.integration.nodes import fleet
from tests.integration.nodes.linked import Peer, join, node_port, rows, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with node_port() as number:
        yield number


async def test_a_database_that_went_back_makes_the_node_adopt_until_the_timer_ends(port: int, tmp_path: Path) -> None:
    async with Peer(await join(tmp_path, port)) as peer:
        welcome = await peer.hello(epoch=40, assign_rev=70)
        assert (welcome.adopt, welcome.epoch) == (True, 41)
        full = await peer.expect(m.AssignmentsFull)
        assert full.rev == 71
        await rows(actions.tidy)
        assert (await rows(peer.row)).adopt_since is not None, "half an hour is not over"
        long_ago = timezone.now() - timedelta(minutes=31)
        await rows(lambda: Node.objects.filter(pk=peer.node_id).update(adopt_since=long_ago))
        await rows(actions.tidy)
        told = await peer.expect(m.Action)
        assert told.kind == "orphan_adopt"
        await peer.send(m.ActionResult(peer.epoch, told.action_id, ok=True))
        await until(lambda: Action.objects.get(pk=told.action_id).finished, "the answer")
        assert await rows(Event.objects.filter(kind="node.adoption_ended").count) == 1
    await until(lambda: peer.row().session == "", "the loss is noticed")
    async with Peer(peer.identity) as again:
        assert not (await again.hello(epoch=41, assign_rev=71)).adopt


async def test_the_brake_holds_tasks_where_they_are_when_all_links_fall_silent(port: int, tmp_path: Path) -> None:
    await rows(fleet.image)
    admin = await rows(fleet.user, "root", admin=True)
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(await join(tmp_path, port))) for _ in range(3)]
        for peer in peers:
            await peer.hello()
            await peer.send(fleet.inventory(peer.epoch, hostname=peer.node_id, architecture="amd64"))
        await until(lambda: Node.objects.filter(memory__gt=0).count() == 3, "the inventories")
        await rows(actions.create_service, admin, fleet.spec(replicas=3))
        await rows(actions.reconcile_round)
        for peer in peers:
            task = await rows(Task.objects.get, node_id=peer.node_id)
            await peer.send(m.StatusReport(peer.epoch, (m.TaskStatus(task.pk, TaskState.RUNNING, 1.0),)))
        await until(lambda: Task.objects.filter(observed=TaskState.RUNNING).count() == 3, "all run")
        await rows(actions.sweep)
    await until(lambda: Node.objects.filter(state=NodeState.SUSPECT).count() == 3, "all suspect")
    # The grace is over, by the rows alone: no test waits six seconds for a clock.
    await rows(lambda: Node.objects.update(lease_until=timezone.now() - timedelta(seconds=1)))
    await rows(actions.sweep)
    watch = await rows(Watch.objects.get)
    assert watch.brake_engaged_at is not None
    assert "3 of 3 nodes" in watch.brake_reason
    await rows(actions.reconcile_round)
    assert await rows(Node.objects.filter(state=NodeState.UNKNOWN).count) == 3
    assert await rows(Task.objects.count) == 3, "nothing was rescheduled"
    async with Peer(peers[0].identity) as back:
        await back.hello(epoch=peers[0].epoch)
        assert (await rows(back.row)).state == NodeState.READY
        assert (await back.expect(m.AssignmentsFull)).tasks[0].desired is TaskState.RUNNING
        await rows(actions.release_brake, admin)
        await rows(actions.sweep)
        assert await rows(Node.objects.filter(state=NodeState.DOWN).count) == 2
        await rows(actions.reconcile_round)
        assert await rows(Task.objects.filter(node_id=back.node_id).count) == 3, "the silent nodes' work moved"
