"""Link sessions: registration gives an epoch, and every later write that the node causes is fenced by it (reliability.md 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now

from agent.protocol.messages import Hello
from agent.protocol.states import Availability, NodeState, TaskState
from controlplane import events
from controlplane.api.actor import SYSTEM, Actor
from controlplane.events.chain import clean
from controlplane.jobs.clock import ahead, database_now
from nodes.actions.wake import reconcile_after_commit
from nodes.errors import EpochImplausible, NodeRemoved, StaleSession
from nodes.models import HostPort, Node, Task, WebProcess
from nodes.orchestrator.liveness import GRACE

# A claimed epoch or revision further above the stored one is hostile: it must not exhaust the bigint.
EPOCH_LEAP = REV_LEAP = 1 << 20


@dataclass(frozen=True, slots=True)
class Registration:
    """What Welcome needs. `adopt`: the database went back in time, the agent must kill nothing it does not find assigned."""

    epoch: int
    assign_rev: int
    adopt: bool
    approved: bool


def node_actor(node: Node) -> Actor:
    """The node itself as the author of an event."""
    return Actor("node", node.pk, node.hostname[:150])  # a host name may be longer than an event's author


def register(
    node_id: str, hello: Hello, session: str, web_id: str, *, fingerprint: str = "", grace: float = GRACE
) -> Registration:
    """Open a session: a new epoch, state READY, a first lease.

    `fingerprint` is that of the certificate used; a renewed one becomes the node's only one with its first use.
    Raises `NodeRemoved`, and `EpochImplausible` (after recording an alarm) when the claimed epoch or revision is absurd.
    """
    with transaction.atomic():
        node = _lock(node_id)
        if hello.epoch > node.epoch + EPOCH_LEAP or hello.assign_rev > node.assign_rev + REV_LEAP:
            data = {"claimed": hello.epoch, "stored": node.epoch, "claimed_rev": hello.assign_rev, "rev": node.assign_rev}
            events.record("node.epoch_refused", actor=node_actor(node), target=f"node/{node.pk}", data=data)
        else:
            return _register(node, hello, session, web_id, fingerprint, grace)
    raise EpochImplausible(
        f"node {node.hostname} claims epoch {hello.epoch} and revision {hello.assign_rev}, far above {node.epoch} and "
        f"{node.assign_rev}: remove it and join it again with a clean state"
    )


def _lock(node_id: str) -> Node:
    node = Node.objects.select_for_update().filter(pk=node_id).first()
    if node is None or node.state == NodeState.LEFT:
        raise NodeRemoved("this node was removed from the cluster: join it again with a new token")
    return node


def _register(node: Node, hello: Hello, session: str, web_id: str, fingerprint: str, grace: float) -> Registration:
    now = database_now()
    boot_id = clean(hello.boot_id[:64])
    went_back = hello.epoch > node.epoch or hello.assign_rev > node.assign_rev
    rebooted = bool(node.boot_id) and node.boot_id != boot_id
    cloned = rebooted and boot_id == node.previous_boot_id
    was = node.state
    node.epoch = max(node.epoch, hello.epoch) + 1
    node.assign_rev = max(node.assign_rev, hello.assign_rev) + int(went_back)
    node.adopt_since = now if went_back else node.adopt_since
    node.previous_boot_id = node.boot_id if rebooted else node.previous_boot_id
    node.boot_id, node.session, node.web_id = boot_id, session, web_id
    node.agent_version = clean(hello.agent_version[:40])
    node.lease_until, node.linked_at = now + timedelta(seconds=grace), now
    if was != NodeState.READY:
        node.state, node.state_at, node.state_reason = NodeState.READY, now, ""
    if fingerprint and fingerprint == node.next_fingerprint:
        node.fingerprint, node.next_fingerprint = fingerprint, ""
    if cloned:
        node.availability = Availability.PAUSE
    node.save()
    if rebooted and not cloned:
        _bury(node)
    if cloned:
        _alarm_clone(node)
    data = {"epoch": node.epoch, "from": was, "rebooted": rebooted, "adopt": went_back}
    events.record(
        "node.linked", actor=node_actor(node), target=f"node/{node.pk}", collection_path=node.collection.path, data=data
    )
    reconcile_after_commit()
    return Registration(node.epoch, node.assign_rev, node.adopt_since is not None, node.approved_at is not None)


def _alarm_clone(node: Node) -> None:
    """A boot id never comes back: two machines take turns under one identity. Nothing new is placed until somebody looks."""
    events.record(
        "node.clone_suspected",
        actor=SYSTEM,
        target=f"node/{node.pk}",
        collection_path=node.collection.path,
        data={"hostname": node.hostname, "boot_ids": [node.previous_boot_id, node.boot_id]},
    )


def _bury(node: Node) -> None:
    """Another boot id: whatever ran there is dead at once, no grace."""
    dead = Task.objects.filter(node=node, observed__gte=TaskState.STARTING, observed__lte=TaskState.RUNNING)
    ids = list(dead.values_list("pk", flat=True))
    Task.objects.filter(pk__in=ids).update(observed=TaskState.FAILED, observed_at=database_now(), message="the node rebooted")
    HostPort.objects.filter(task_id__in=ids).delete()


def link_lost(node_id: str, epoch: int) -> bool:
    """The websocket closed: SUSPECT at once, no new placements, the full grace until DOWN. False when the epoch is stale."""
    with transaction.atomic():
        node = Node.objects.select_for_update().filter(pk=node_id, epoch=epoch).exclude(session="").first()
        if node is None:
            return False
        node.session = node.web_id = ""
        if node.state == NodeState.READY:
            node.state, node.state_at, node.state_reason = NodeState.SUSPECT, database_now(), "the link closed"
        node.save(update_fields=["session", "web_id", "state", "state_at", "state_reason", "updated_at"])
        events.record(
            "node.link_lost", actor=SYSTEM, target=f"node/{node.pk}", collection_path=node.collection.path, data={"epoch": epoch}
        )
        reconcile_after_commit()
        return True


def touch_leases(sessions: Mapping[str, str], *, web_id: str, grace: float = GRACE) -> int:
    """Renew the leases of nodes that a web process heard: one UPDATE a second for all of them. Returns how many were renewed.

    `sessions` maps node ids to the session each beat came over; a superseded session renews nothing.
    """
    WebProcess.objects.filter(pk=web_id).update(seen_at=Now())
    if not sessions:
        return 0
    rows = Node.objects.filter(web_id=web_id, session__in=list(sessions.values())).exclude(state=NodeState.LEFT)
    return rows.update(lease_until=ahead(grace))


def lock_session(node_id: str, epoch: int) -> Node:
    """The node's row, locked, with its collection. Raises `StaleSession` unless `epoch` is the current one."""
    rows = Node.objects.select_for_update(of=("self",)).select_related("collection")
    node = rows.filter(pk=node_id, epoch=epoch).exclude(state=NodeState.LEFT).first()
    if node is None:
        raise StaleSession("another session of this node was opened since: register again", epoch=epoch)
    return node


def check_epoch(node_id: str, epoch: int) -> None:
    """Raises `StaleSession` unless `epoch` is the node's current one."""
    if not Node.objects.filter(pk=node_id, epoch=epoch).exclude(state=NodeState.LEFT).exists():
        raise StaleSession("another session of this node was opened since: register again", epoch=epoch)


def check_session(node_id: str, epoch: int, session: str) -> None:
    """Raises `StaleSession` unless the node's row names this session, of this epoch: else its lease is renewed by nobody."""
    if not Node.objects.filter(pk=node_id, epoch=epoch, session=session).exclude(state=NodeState.LEFT).exists():
        raise StaleSession("this session of the node has ended: register again", epoch=epoch)


def resume(node_id: str, session: str, web_id: str, hello: Hello, *, grace: float = GRACE) -> Registration | None:
    """Go on with a session whose websocket was lost: same epoch. None when that session is not the node's newest any more."""
    with transaction.atomic():
        node = _lock(node_id)
        if node.epoch != hello.epoch or node.boot_id != clean(hello.boot_id[:64]) or (node.session and node.session != session):
            return None
        now = database_now()
        node.session, node.web_id, node.lease_until = session, web_id, now + timedelta(seconds=grace)
        if node.state != NodeState.READY:
            node.state, node.state_at, node.state_reason = NodeState.READY, now, ""
        node.save()
        events.record(
            "node.link_resumed",
            actor=node_actor(node),
            target=f"node/{node.pk}",
            collection_path=node.collection.path,
            data={"epoch": node.epoch},
        )
        reconcile_after_commit()
        return Registration(node.epoch, node.assign_rev, node.adopt_since is not None, node.approved_at is not None)
