"""A stolen node on the real wire: other nodes' ids, old epochs, replays, giant values, the wrong direction, streams it never had.

security.md 2.3: the TLS identity is the only subject. After each attack the rows of the victim are what they were.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.protocol import messages as m
from agent.protocol.codec import encode
from agent.protocol.states import NodeState, TaskState
from controlplane.events.models import Event
from nodes import actions
from nodes.actions import session as sessions
from nodes.link.hub import HUB
from nodes.models import Action, Container, Node, NodeImage, Service, Task, UsageSample
from tests.integration.nodes import fleet
from tests.integration.nodes.linked import Peer, join, node_port, rows, until

pytestmark = pytest.mark.django_db(transaction=True)

BIG = 10**18


@dataclass
class Scene:
    """A victim with a running task, a container and a waiting act; a thief with a link."""

    victim: Peer
    thief: Peer
    task_id: str
    action_id: str

    def state(self) -> dict[str, Any]:
        """All that the thief must not change. The victim's own beats and lease are not part of it."""
        node = Node.objects.filter(pk=self.victim.node_id)
        return {
            "node": list(node.values("state", "epoch", "assign_rev", "session", "inventory", "hostname", "availability")),
            "tasks": list(Task.objects.filter(node_id=self.victim.node_id).order_by("pk").values()),
            "containers": list(Container.objects.filter(node_id=self.victim.node_id).order_by("pk").values()),
            "images": list(NodeImage.objects.filter(node_id=self.victim.node_id).values()),
            "actions": list(Action.objects.filter(node_id=self.victim.node_id).values()),
            "samples": UsageSample.objects.filter(node_id=self.victim.node_id).count(),
            "services": list(Service.objects.order_by("pk").values()),
        }


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with node_port() as port:
        await rows(fleet.image)
        async with Peer(await join(tmp_path, port)) as victim:
            await victim.hello()
            admin = await rows(fleet.user, "root", admin=True)
            await victim.send(fleet.inventory(victim.epoch, hostname="victim"))
            await until(lambda: victim.row().memory, "the inventory")
            await rows(actions.create_service, admin, fleet.spec())
            await rows(actions.reconcile_round)
            task_id = str(await rows(lambda: Task.objects.get(node_id=victim.node_id).pk))
            running = m.TaskStatus(task_id, TaskState.RUNNING, 1.0)
            await victim.send(m.StatusReport(victim.epoch, (running,)))
            mine = m.ContainerInfo("c" * 64, "web.1", "library/web", "i", "running", 1e9, task_id=task_id)
            await victim.send(m.Contents(victim.epoch, (mine,), (m.ImageInfo("i", 5, 1e9),)))
            await until(lambda: Container.objects.exists() and Task.objects.get().observed == TaskState.RUNNING, "it runs")
            action = await rows(lambda: actions.queue_action(admin, victim.row(), "container_stop", "c" * 64))
            await victim.expect(m.Action)
            async with Peer(await join(tmp_path, port)) as thief:
                await thief.hello()
                yield Scene(victim, thief, task_id, str(action.pk))


async def unharmed(scene: Scene, before: dict[str, Any], *, code: int | None) -> None:
    """Nothing of the victim's changed; the thief's link ended with `code`, or lives when None."""
    if code is None:
        await scene.thief.beat()
        await scene.thief.expect(m.HeartbeatAck)
        # What was sent before the beat is in the inbox: an answer to a later question says that it is done.
        await scene.thief.send(m.TokenRequest("probe", "library/none"))
        await scene.thief.expect(m.TokenReply, where=lambda reply: reply.request_id == "probe")
    else:
        assert await scene.thief.closed() == code
    assert await rows(scene.state) == before


async def test_messages_with_another_nodes_ids_change_nothing(scene: Scene) -> None:
    thief, before = scene.thief, await rows(scene.state)
    failed = m.TaskStatus(scene.task_id, TaskState.FAILED, 9.0, exit_code=1)
    claimed = m.ContainerInfo("c" * 64, "web.1", "library/web", "i", "exited", 1e9, task_id=scene.task_id)
    await thief.send(m.StatusReport(thief.epoch, (failed,)))
    await thief.send(m.Contents(thief.epoch, (claimed,), ()))
    await thief.send(m.ActionResult(thief.epoch, scene.action_id, ok=True, result={"id": "stolen"}))
    await thief.send(m.Samples(thief.epoch, 1.0, {"load1": 1.0}, {"c" * 64: {"pids": 1.0}}))
    await thief.send(m.AssignmentsRequest(BIG))
    full = await thief.expect(m.AssignmentsFull)
    assert full.tasks == (), "another node's assignments were shown"
    await unharmed(scene, before, code=None)


async def test_a_thief_gets_no_token_for_what_it_is_not_assigned(scene: Scene) -> None:
    await scene.thief.send(m.TokenRequest("r1", "library/web"))
    reply = await scene.thief.expect(m.TokenReply)
    assert (reply.token, reply.error["code"]) == ("", "denied")
    await scene.victim.send(m.TokenRequest("r2", "library/web"))
    assert (await scene.victim.expect(m.TokenReply)).token


async def test_a_csr_with_another_nodes_name_is_signed_for_ones_own_row_only(scene: Scene) -> None:
    from cryptography import x509

    from agent.link.identity import new_key_and_csr

    before = await rows(scene.state)
    _, csr = new_key_and_csr(scene.victim.node_id)
    await scene.thief.send(m.CertificateRequest("r1", csr))
    reply = await scene.thief.expect(m.CertificateReply)
    subject = x509.load_pem_x509_certificate(reply.certificate.encode()).subject.rfc4514_string()
    assert scene.thief.node_id in subject
    assert scene.victim.node_id not in subject
    await unharmed(scene, before, code=None)


@pytest.mark.parametrize("shift", [-1, 1, 1 << 21])
async def test_any_message_of_another_epoch_ends_the_session(scene: Scene, shift: int) -> None:
    thief, before = scene.thief, await rows(scene.state)
    epoch = thief.epoch + shift
    for message in (
        m.StatusReport(epoch, (m.TaskStatus(scene.task_id, TaskState.FAILED, 9.0),)),
        fleet.inventory(epoch),
        m.Contents(epoch, (), ()),
        m.Samples(epoch, 1.0, {}, {}),
        m.ActionResult(epoch, scene.action_id, ok=True),
    ):
        async with Peer(thief.identity) as peer:
            HUB._admitted.clear()  # the limit on greetings is another test's
            await peer.hello()
            message = type(message)(**{**_fields(message), "epoch": peer.epoch + shift})
            await peer.send(message)
            assert await peer.closed() == 4409, type(message).__name__
    async with Peer(thief.identity) as peer:
        HUB._admitted.clear()
        await peer.hello()
        await peer.send(m.Heartbeat(peer.epoch + shift, 0, 1.0))
        assert await peer.closed() == 1002
    assert await rows(scene.state) == before


def _fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__dataclass_fields__ if name != "TYPE"}


async def test_a_replay_changes_nothing(scene: Scene) -> None:
    victim = scene.victim
    before = await rows(scene.state)
    events = await rows(Event.objects.count)
    report = m.StatusReport(victim.epoch, (m.TaskStatus(scene.task_id, TaskState.FAILED, 9.0),))
    body = {"type": "status_report", **encode(report)}
    for _ in range(3):
        await victim.raw(json.dumps({**body, "seq": 1}))  # a number that was used: taken for a repeat
    await victim.beat()
    await victim.expect(m.HeartbeatAck)
    assert await rows(scene.state) == before
    assert await rows(Event.objects.count) == events
    await victim.raw(json.dumps({**body, "seq": 99}))
    assert await victim.closed() == 1002


@pytest.mark.parametrize("kind", sorted(m.BY_TYPE))
async def test_what_only_the_control_plane_sends_ends_the_link(scene: Scene, kind: str) -> None:
    if m.AGENT in m.SENT_BY[m.BY_TYPE[kind]] and kind != "hello":
        return  # its own to send: other tests
    before = await rows(scene.state)
    await scene.thief.raw(json.dumps({"type": kind, "epoch": scene.thief.epoch, "versions": [1]}))
    await unharmed(scene, before, code=1002)


BROKEN: dict[str, str | bytes] = {
    "not JSON": "{",
    "not an object": "[1]",
    "no type": "{}",
    "unknown type": '{"type": "root_shell"}',
    "NaN": '{"type": "heartbeat", "epoch": 1, "assign_rev": 0, "sent": NaN}',
    "infinite": '{"type": "heartbeat", "epoch": 1, "assign_rev": 0, "sent": 1e999}',
    "integer beyond 64 bits": '{"type": "heartbeat", "epoch": 99999999999999999999, "assign_rev": 0, "sent": 1}',
    "nested a hundred thousand deep": '{"type": "ack", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested forty deep": '{"type": "ack", "x": ' + "[" * 40 + "]" * 40 + "}",
    "boolean for a number": '{"type": "heartbeat", "epoch": true, "assign_rev": 0, "sent": 1}',
    "negative sequence": '{"type": "status_report", "epoch": 1, "tasks": [], "seq": -1}',
    "no sequence": '{"type": "status_report", "epoch": 1, "tasks": []}',
    "acknowledges the future": '{"type": "ack", "ack": 1000}',
    "a stream that it never got": '{"type": "stream_exit", "stream": 5, "code": 0}',
    "credit for a stream that it never got": '{"type": "stream_credit", "stream": 9, "bytes": 1}',
    "data of a stream that it never got": b"\x01\x00\x00\x00\x05\x01hello",
    "a short binary frame": b"\x01",
    "an unknown binary frame": b"\x09\x00\x00\x00\x05\x01hello",
    "a task in a state of the control plane's": '{"type": "status_report", "epoch": 1, "seq": 1, "tasks": '
    '[{"task_id": "t", "observed": 832, "at": 1}]}',
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_frames_end_the_link_with_1002(scene: Scene, name: str) -> None:
    before = await rows(scene.state)
    await scene.thief.raw(BROKEN[name])
    await unharmed(scene, before, code=1002)


async def test_a_frame_over_the_limit_ends_the_link(scene: Scene) -> None:
    before = await rows(scene.state)
    await scene.thief.raw('{"type": "ack", "x": "' + "x" * (10 << 20) + '"}')
    await unharmed(scene, before, code=1009)


async def test_giant_values_are_cut_to_size_and_harm_nobody(scene: Scene) -> None:
    thief, before = scene.thief, await rows(scene.state)
    text = "\x00\ud800" + "x" * 100_000
    await thief.send(fleet.inventory(thief.epoch, hostname=text, os=text, architecture=text, kernel=text[:1000], nano_cpus=BIG,
                                     labels={f"{number}{text[:300]}": text[:9000] for number in range(500)}))  # fmt: skip
    giant = m.ContainerInfo(
        "d" * 64, text, text, text, text, -1e300, pid=BIG, started=1e300, finished=-BIG, exit_code=-BIG, restarts=BIG,
        labels={str(number): text[:5000] for number in range(400)}, addresses=(text[:500],) * 300,
        ports=({"host_port": BIG, "x": {"y": text[:500]}},) * 300, health=text, command=text,
    )  # fmt: skip
    images = (m.ImageInfo(text, -BIG, 1e300, tags=(text,)), m.ImageInfo(text, 1, 1.0))
    await thief.send(m.Contents(thief.epoch, (giant, giant), images))
    await thief.send(m.Samples(thief.epoch, 1e300, {str(n): 1e300 for n in range(1000)}, {text[:90]: {"pids": -1e300}}))
    await unharmed(scene, before, code=None)
    stored = await rows(Container.objects.get, node_id=thief.node_id)
    assert len(json.dumps(stored.labels)) < 2 << 20
    assert len(stored.labels) <= 256
    assert stored.task_id is None
    node = await rows(thief.row)
    assert len(node.engine_labels) <= 256


async def test_a_report_too_long_ends_the_link(scene: Scene) -> None:
    before = await rows(scene.state)
    many = tuple(m.TaskStatus(f"t{number}", TaskState.RUNNING, 1.0) for number in range(5001))
    await scene.thief.send(m.StatusReport(scene.thief.epoch, many))
    await unharmed(scene, before, code=1002)


@pytest.mark.parametrize("claim", ["epoch", "assign_rev"])
async def test_a_greeting_cannot_exhaust_the_counters(scene: Scene, claim: str) -> None:
    identity, before = scene.thief.identity, await rows(scene.thief.row)
    async with Peer(identity) as peer:
        refused = await peer.hello(**{claim: (1 << 63) - 1})
        assert (refused.code, await peer.closed()) == ("epoch_implausible", 4403)
    after = await rows(scene.thief.row)
    assert (after.epoch, after.assign_rev) == (before.epoch, before.assign_rev)
    assert await rows(Event.objects.filter(kind="node.epoch_refused").count) == 1
    assert sessions.EPOCH_LEAP == 1 << 20


EARLY_BEAT = '{"type": "heartbeat", "epoch": 1, "assign_rev": 0, "sent": 1}'


@pytest.mark.parametrize("first", [EARLY_BEAT, "{", b"\x01\x00\x00\x00\x01\x00"])
async def test_the_first_frame_must_be_the_greeting(scene: Scene, first: str | bytes) -> None:
    async with Peer(scene.thief.identity) as peer:
        await peer.raw(first)
        refused = await peer.expect(m.Refused)
        assert (refused.code, refused.retry_after > 0) == ("protocol_violation", True)
        assert await peer.closed() == 4403
    assert (await rows(scene.thief.row)).state == NodeState.READY


async def test_a_node_that_asks_and_never_reads_is_cut_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are kept for it up to a bound, not for ever."""
    live = HUB.session(scene.thief.node_id)
    assert live is not None

    async def stuck(_frame: str | bytes) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(live, "_send", stuck)
    monkeypatch.setattr("nodes.link.session.MAX_QUEUED", 50)
    beat = json.dumps({"type": "heartbeat", "epoch": scene.thief.epoch, "assign_rev": 0, "sent": 1})
    for _ in range(300):
        await scene.thief.raw(beat)
    assert await scene.thief.closed() == 1002


async def test_nobody_links_without_a_certificate_of_the_nodes_root(scene: Scene) -> None:
    import ssl

    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(scene.thief.identity.ca_path))
    link = scene.thief.identity.cluster().links[0]
    with pytest.raises((OSError, WebSocketException)):
        async with connect(f"wss://{link}/link/v1", ssl=context, server_hostname="localhost", proxy=None) as socket:
            await socket.recv()


async def test_a_nodes_certificate_opens_no_tunnel(scene: Scene) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    link = scene.thief.identity.cluster().links[0]
    context = scene.thief.identity.ssl_context()
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"wss://{link}/tunnel/v1", ssl=context, server_hostname="localhost", proxy=None):
            pass
    assert refused.value.response.status_code == 403
