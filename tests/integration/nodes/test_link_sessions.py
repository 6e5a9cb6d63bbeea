"""Sessions over the real wire: registration, resume, the newest wins, removal, renewal, a database that is away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError

from agent.link.identity import new_key_and_csr
from agent.protocol import messages as m
from agent.protocol.states import Availability, NodeState, TaskState
from agent.protocol.wire import Acknowledged
from controlplane.events.models import Event
from nodes import actions
from nodes.link import app, hub, session
from nodes.models import Action, ActionState, Node, Task
from tests.integration.nodes import fleet
from tests.integration.nodes.linked import Peer, join, node_port, rows, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with node_port() as number:
        yield number


@pytest.fixture
def homes(tmp_path: Path) -> Path:
    return tmp_path


async def test_a_node_links_beats_and_is_suspect_when_it_is_gone(port: int, homes: Path) -> None:
    async with Peer(await join(homes, port)) as peer:
        welcome = await peer.hello()
        assert (welcome.epoch, welcome.resumed, welcome.adopt) == (1, False, False)
        assert (await peer.expect(m.AssignmentsFull)).tasks == ()
        before = (await rows(peer.row)).lease_until
        await peer.beat()
        assert (await peer.expect(m.HeartbeatAck)).assign_rev == 0
        await until(lambda: peer.row().lease_until > before, "the lease is renewed")
    await until(lambda: peer.row().state == NodeState.SUSPECT, "suspect")


async def test_the_newest_of_two_sessions_with_one_certificate_wins(port: int, homes: Path) -> None:
    identity = await join(homes, port)
    async with Peer(identity) as older, Peer(identity) as newer:
        first = await older.hello()
        second = await newer.hello()
        assert second.epoch == first.epoch + 1
        assert await older.closed() == 4409
        await newer.beat()
        await newer.expect(m.HeartbeatAck)
        row = await rows(newer.row)
        assert (row.session, row.state) == (second.session, NodeState.READY)


async def test_two_machines_that_take_turns_under_one_identity_are_found(port: int, homes: Path) -> None:
    identity = await join(homes, port)
    for boot in ("machine-a", "machine-b", "machine-a"):
        async with Peer(identity, boot_id=boot) as peer:
            assert isinstance(await peer.hello(), m.Welcome)
    await until(lambda: Event.objects.filter(kind="node.clone_suspected").exists(), "the alarm")
    assert (await rows(peer.row)).availability == Availability.PAUSE


async def test_the_fourth_link_within_eight_seconds_waits(port: int, homes: Path) -> None:
    identity, other = await join(homes, port), await join(homes, port)
    for _ in range(hub.ADMISSIONS):
        async with Peer(identity) as peer:
            assert isinstance(await peer.hello(), m.Welcome)
    async with Peer(identity) as peer:
        refused = await peer.hello()
        assert (refused.code, await peer.closed()) == ("throttled", 4403)
        assert 0 < refused.retry_after <= hub.ADMISSION_WINDOW
    async with Peer(other) as unhurt:
        assert isinstance(await unhurt.hello(), m.Welcome)


async def test_a_removed_node_is_closed_even_when_the_hint_is_lost(port: int, homes: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("nodes.actions.administration.session_after_commit", lambda _node_id: None)
    async with Peer(await join(homes, port)) as peer:
        await peer.hello()
        admin = await rows(fleet.user, "boss", admin=True)
        await rows(lambda: actions.remove_node(admin, peer.row(), force=True))
        assert await peer.closed() == 4409
    async with Peer(peer.identity) as again:
        refused = await again.hello()
        assert (refused.code, refused.retry_after < 0) == ("node_removed", True)


async def test_a_certificate_of_no_node_is_told_to_come_back_later(port: int, homes: Path) -> None:
    identity = await join(homes, port)
    await rows(lambda: Node.objects.filter(pk=identity.cluster().node_id).delete())
    async with Peer(identity) as peer:
        refused = await peer.hello()
        assert (refused.code, refused.retry_after) == ("unknown_certificate", app.STRANGER_RETRY)


async def test_renewal_end_to_end(port: int, homes: Path) -> None:
    identity = await join(homes, port)
    node_pem = next(homes.glob("*/identity/node.pem"))
    old = node_pem.read_bytes()
    async with Peer(identity) as peer:
        await peer.hello()
        key, csr = new_key_and_csr("a name nobody asks for")
        await peer.send(m.CertificateRequest("r1", csr))
        reply = await peer.expect(m.CertificateReply)
        assert not reply.error
        before = (await rows(peer.row)).fingerprint
    async with Peer(identity) as unsure:  # the answer was lost: the old certificate still opens a link
        assert isinstance(await unsure.hello(), m.Welcome)
    identity.replace_certificate(key, reply.certificate)
    async with Peer(identity) as renewed:
        assert isinstance(await renewed.hello(), m.Welcome)
        row = await rows(renewed.row)
        assert row.fingerprint != before
        assert row.next_fingerprint == ""
    node_pem.write_bytes(old)
    async with Peer(identity) as stale:
        assert (await stale.hello()).code == "unknown_certificate"


async def _act(peer: Peer) -> str:
    admin = await rows(fleet.user, f"boss-{peer.node_id}", admin=True)
    action = await rows(lambda: actions.queue_action(admin, peer.row(), "container_stop", "c1"))
    return str(action.pk)


async def test_an_act_is_sent_even_when_its_hint_is_lost(port: int, homes: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("nodes.actions.one_shot.hints.publish", lambda *_: None)
    async with Peer(await join(homes, port)) as peer:
        await peer.hello()
        await peer.expect(m.AssignmentsFull)
        action_id = await _act(peer)
        assert (await peer.expect(m.Action)).action_id == action_id


async def test_a_cut_link_is_resumed_and_a_result_is_neither_lost_nor_doubled(port: int, homes: Path) -> None:
    identity = await join(homes, port)
    peer = Peer(identity)
    async with peer:
        welcome = await peer.hello()
        action_id = await _act(peer)
        action = await peer.expect(m.Action)
        assert action.action_id == action_id
        # The result is on its way when the link is cut.
        peer.wire.send(m.ActionResult(peer.epoch, action_id, ok=True, result={"n": 1}))
    await until(lambda: peer.row().session == "", "the loss is noticed")
    again = Peer(identity, peer.wire)
    again.epoch = welcome.epoch
    async with again:
        resumed = await again.hello(session=welcome.session)
        assert (resumed.resumed, resumed.epoch, resumed.session) == (True, welcome.epoch, welcome.session)
        await again.flush()
        await again.expect(Acknowledged)
        row = await rows(Action.objects.get, pk=action_id)
        assert (row.state, row.result) == (ActionState.DONE, {"n": 1})
        await again.send(m.ActionResult(again.epoch, action_id, ok=False, error={"code": "doubled"}))
        await again.expect(Acknowledged)
    row = await rows(Action.objects.get, pk=action_id)
    assert (row.state, row.error) == (ActionState.DONE, {})
    finished = Event.objects.filter(kind="container.action_finished")
    assert await rows(finished.count) == 1


async def test_a_return_waits_until_the_loss_is_recorded(port: int, homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the loss, of the same epoch, would come last: the link open, and the row without it for ever."""
    held, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    record = app.sessions.link_lost

    def slowly(node_id: str, epoch: int) -> bool:
        loop.call_soon_threadsafe(held.set)
        assert release.wait(20)
        return record(node_id, epoch)

    monkeypatch.setattr(app.sessions, "link_lost", slowly)
    identity = await join(homes, port)
    peer = Peer(identity)
    async with peer:
        welcome = await peer.hello()
    async with asyncio.timeout(20):
        await held.wait()
    again = Peer(identity, peer.wire)
    again.epoch = welcome.epoch
    async with again:
        greeting = asyncio.create_task(again.hello(session=welcome.session))
        answered, _ = await asyncio.wait({greeting}, timeout=0.5)
        release.set()
        resumed = await greeting
        assert not answered
        assert (resumed.resumed, resumed.epoch) == (True, welcome.epoch)
        row = await rows(again.row)
        assert (row.session, row.state) == (welcome.session, NodeState.READY)


async def test_a_session_that_its_row_does_not_name_is_ended(port: int, homes: Path) -> None:
    async with Peer(await join(homes, port)) as peer:
        welcome = await peer.hello()
        await rows(actions.session.link_lost, peer.identity.cluster().node_id, welcome.epoch)
        assert await peer.closed() == 4409


async def test_a_session_that_was_overtaken_is_not_resumed(port: int, homes: Path) -> None:
    identity = await join(homes, port)
    first = Peer(identity)
    async with first:
        welcome = await first.hello()
    await until(lambda: first.row().session == "", "the loss is noticed")
    async with Peer(identity) as other:
        await other.hello()
    late = Peer(identity, first.wire)
    async with late:
        answer = await late.hello(session=welcome.session, epoch=welcome.epoch)
        assert (answer.resumed, answer.epoch) == (False, welcome.epoch + 2)


async def test_what_a_resuming_node_claims_to_have_received_is_checked(port: int, homes: Path) -> None:
    identity = await join(homes, port)
    first = Peer(identity)
    async with first:
        welcome = await first.hello()
    await until(lambda: first.row().session == "", "the loss is noticed")
    liar = Peer(identity, first.wire)
    async with liar:
        liar.wire.received = liar.wire._delivered = 7
        answer = await liar.hello(session=welcome.session, epoch=welcome.epoch)
        assert isinstance(answer, m.Refused)
        assert answer.code == "protocol_violation"
        assert answer.retry_after > 0


async def test_a_database_that_is_away_loses_nothing(port: int, homes: Path, monkeypatch: Any) -> None:
    await rows(fleet.image)
    async with Peer(await join(homes, port)) as peer:
        await peer.hello()
        admin = await rows(fleet.user, "root", admin=True)
        await rows(lambda: Node.objects.update(nano_cpus=4_000_000_000, memory=8 << 30, architecture="amd64"))
        await rows(actions.create_service, admin, fleet.spec())
        await rows(actions.reconcile_round)
        task_id = (await peer.expect(m.AssignmentsFull, m.AssignmentsDelta, where=_tasks_of)) and (
            await rows(Task.objects.values_list("pk", flat=True).get)
        )
        real, tried = session.report, 0

        def away(*args: Any) -> Any:
            nonlocal tried
            tried += 1
            if tried < 5:
                raise OperationalError("the connection is closed")
            return real(*args)

        monkeypatch.setattr(session, "report", away)
        await peer.send(m.StatusReport(peer.epoch, (m.TaskStatus(task_id, TaskState.RUNNING, 1.0),)))
        await peer.send(m.StatusReport(peer.epoch, (m.TaskStatus(task_id, TaskState.FAILED, 2.0, exit_code=3),)))
        await peer.beat()
        await peer.expect(m.HeartbeatAck)  # beats do not wait for the database
        await until(lambda: Task.objects.get().observed == TaskState.FAILED, "both reports are stored")
        assert tried == 6
        await until(lambda: Event.objects.filter(kind="service.tasks_reported").count() == 2, "one event each")


async def test_a_change_between_the_two_reads_of_a_look_reaches_the_node(port: int, homes: Path, monkeypatch: Any) -> None:
    """The look has read the revision, then tasks change, then it reads the tasks: they go with the next revision."""
    await rows(fleet.image)
    async with Peer(await join(homes, port)) as peer:
        await peer.hello()
        assert (await peer.expect(m.AssignmentsFull)).tasks == ()
        admin = await rows(fleet.user, "root", admin=True)
        await rows(lambda: Node.objects.update(nano_cpus=4_000_000_000, memory=8 << 30, architecture="amd64"))
        await rows(actions.create_service, admin, fleet.spec())
        real, raced = session.queries.assignments, 0

        def between(node_id: str) -> Any:
            nonlocal raced
            rev = Node.objects.values_list("assign_rev", flat=True).get(pk=node_id)
            if not raced:
                raced += 1
                actions.reconcile_round()
            return rev, *real(node_id)[1:]

        monkeypatch.setattr(session.queries, "assignments", between)
        session_of_peer = hub.HUB.session(peer.node_id)
        assert session_of_peer is not None
        session_of_peer.wake()
        delta = await peer.expect(m.AssignmentsDelta)
        assert raced == 1
        assert [task.task_id for task in delta.put] == list(await rows(lambda: [*Task.objects.values_list("pk", flat=True)]))


def _tasks_of(message: Any) -> bool:
    return bool(getattr(message, "tasks", ()) or getattr(message, "put", ()))


async def test_a_full_inbox_stops_the_reading(port: int, homes: Path, monkeypatch: Any) -> None:
    gate = asyncio.Event()
    handled = 0

    async def slow(self: Any, message: Any) -> None:
        nonlocal handled
        await gate.wait()
        handled += 1

    monkeypatch.setattr(session.LinkSession, "_handle", slow)
    async with Peer(await join(homes, port)) as peer:
        await peer.hello()
        big = "x" * (1 << 20)
        for number in range(60):
            peer.wire.send(m.StatusReport(peer.epoch, (m.TaskStatus(f"t{number}", TaskState.RUNNING, 1.0, error=big),)))
        sending = asyncio.create_task(peer.flush())
        live = hub.HUB.session(peer.node_id)
        assert live is not None
        async with asyncio.timeout(20):
            while live._inbox._size < 6 << 20:
                await asyncio.sleep(0.02)
        done, _ = await asyncio.wait({sending}, timeout=1.0)
        assert not done, "the node could put 60 MB on a link whose inbox holds 8"
        assert live._inbox._size <= 8 << 20
        gate.set()
        await asyncio.wait_for(sending, 20)
        async with asyncio.timeout(20):
            while handled < 60:
                await asyncio.sleep(0.02)
