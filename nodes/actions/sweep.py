"""Watching the nodes: one process holds the watch's lease, judges every node once a second, and clears away what timed out."""

from __future__ import annotations

from datetime import timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from agent.protocol.states import NodeState
from controlplane import events
from controlplane.api.actor import SYSTEM
from controlplane.jobs.clock import ahead, database_now
from nodes import queries
from nodes.actions.administration import end_adoption
from nodes.actions.wake import reconcile_after_commit
from nodes.models import Action, ActionState, Node, RestartHistory, Watch
from nodes.orchestrator import Verdict, judge

WATCH_LEASE = 5.0  # seconds
ADOPT_FOR = timedelta(minutes=30)
KEEP_ACTIONS = timedelta(days=7)
KEEP_RESTARTS = timedelta(days=1)


def take_watch(holder: str) -> bool:
    """Hold (or renew) the watch: True when `holder` is the one process that sweeps now. Correctness never rests on it."""
    free = Q(holder=holder) | Q(lease_until=None) | Q(lease_until__lt=Now())
    if Watch.objects.filter(free, pk=1).update(holder=holder, lease_until=ahead(WATCH_LEASE)):
        return True
    if not Watch.objects.filter(pk=1).exists():
        try:
            with transaction.atomic():
                Watch.objects.create(pk=1, holder=holder, lease_until=database_now() + timedelta(seconds=WATCH_LEASE))
            return True
        except IntegrityError:
            return False
    return False


def leave_watch(holder: str) -> None:
    """A leaving process lets the next one in at once."""
    Watch.objects.filter(pk=1, holder=holder).update(holder="", lease_until=None)


def sweep() -> int:
    """Judge all nodes, engage the brake when too many fall silent, expire unanswered actions.

    Returns how many nodes changed state.
    """
    watch, _ = Watch.objects.get_or_create(pk=1)
    now = database_now()
    brake = queries.brake_of(watch.brake_engaged_at, watch.brake_released_at)
    looked_at = queries.stamp(watch.looked_at)
    verdict = judge(queries.node_leases(), now=now.timestamp(), looked_at=looked_at, brake=brake)
    changed = _carry_out(verdict) if verdict.states else 0
    Watch.objects.filter(pk=1).update(looked_at=now)
    _expire_actions()
    return changed


def _carry_out(verdict: Verdict) -> int:
    with transaction.atomic():
        if verdict.engage:
            Watch.objects.filter(pk=1).update(brake_engaged_at=Now(), brake_reason=verdict.reason[:300])
            events.record("cluster.brake_engaged", actor=SYSTEM, target="cluster", data={"reason": verdict.reason})
        changed = sum(_change(node_id, state, verdict.reason) for node_id, state in verdict.states)
        if changed:
            reconcile_after_commit()
        return changed


def _change(node_id: str, state: NodeState, reason: str) -> bool:
    """Checked again under the row's lock: a beat or a registration may have come between."""
    now = database_now()
    node = Node.objects.select_for_update(of=("self",)).select_related("collection").filter(pk=node_id).first()
    if node is None or node.state in (NodeState.LEFT, state):
        return False
    alive = node.lease_until is not None and node.lease_until > now
    doubted = state is NodeState.UNKNOWN and not node.session  # without a link its lease may still run
    if not doubted and alive is not (state is NodeState.READY):
        return False
    was = node.state
    node.state, node.state_at = state, now
    silent = "the control plane was away after its link had closed" if alive else "no heartbeat within the grace"
    node.state_reason = "" if state is NodeState.READY else (reason or silent)[:300]
    node.save(update_fields=["state", "state_at", "state_reason", "updated_at"])
    events.record(
        f"node.{state.value}",
        actor=SYSTEM,
        target=f"node/{node.pk}",
        collection_path=node.collection.path,
        data={"from": was, "hostname": node.hostname, "reason": node.state_reason},
    )
    return True


def _expire_actions() -> None:
    late = Action.objects.queued().filter(deadline__lt=Now())
    if late.exists():
        late.update(
            state=ActionState.EXPIRED,
            finished_at=Now(),
            error={
                "code": "node_unreachable",
                "status": 503,
                "retry": True,
                "detail": "the node did not answer in time",
                "extra": {},
            },
        )


def tidy() -> None:
    """Once a minute: end old adopt modes, forget old actions and restarts."""
    now = database_now()
    for node in Node.objects.members().filter(adopt_since__lt=now - ADOPT_FOR):
        end_adoption(SYSTEM, node)
    Action.objects.exclude(state=ActionState.QUEUED).filter(created_at__lt=now - KEEP_ACTIONS).delete()
    # A window longer than a day would forget attempts of yesterday; without a window only the current generation's count.
    old = RestartHistory.objects.filter(at__lt=now - KEEP_RESTARTS)
    old.exclude(service__spec__restart__max_attempts__gt=0).delete()
