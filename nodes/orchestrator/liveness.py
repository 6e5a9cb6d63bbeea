"""Which nodes are believed to be alive, and the brake that keeps one bad network from moving the whole cluster.

A node is down when its lease has run out (three heartbeats); when more than 30 % of the ready nodes (at least 3) would go down
within 30 s, or nobody has looked for a while (start of the control plane, database away), nodes become UNKNOWN instead: the grace
is six times as long and nothing is rescheduled. An operator may release the brake early. A node whose link is held by a web
process that itself fell silent becomes UNKNOWN too, it alone: the silence is that process's, and says nothing of the node. So
does one without a link when the watch was interrupted, however briefly: for a part of its grace there was nobody to link to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.protocol.states import NodeState
from nodes.snapshot import Brake, NodeLease

PERIOD = 2.0  # seconds between heartbeats, chosen by the server
GRACE = 3 * PERIOD
UNKNOWN_GRACE = 6 * GRACE
DEAF_AFTER = 3.0  # seconds without a write of leases after which a web process is not believed to hear its nodes
BLIND_AFTER = 5.0  # seconds without a look after which the verdicts of before do not count
INTERRUPTED_AFTER = 2.5  # seconds without a look (there is one a second) that look like a restart of the control plane
BRAKE_WINDOW = 30.0
BRAKE_SHARE = 0.30
BRAKE_LEAST = 3
OFF = Brake()


@dataclass(frozen=True, slots=True)
class Verdict:
    """New states by node id; `engage` true = the brake goes on now, with `reason` for the alarm."""

    states: tuple[tuple[str, NodeState], ...] = ()
    engage: bool = False
    reason: str = ""


def judge(nodes: Sequence[NodeLease], *, now: float, looked_at: float, brake: Brake = OFF) -> Verdict:
    """Decide the state of every node whose state must change."""
    ordered = sorted(nodes, key=lambda node: node.id)
    revived = [(node.id, NodeState.READY) for node in ordered if _revived(node, now)]
    lost = [node for node in ordered if node.state in (NodeState.READY, NodeState.SUSPECT) and node.lease_until <= now]
    given_up = [(node.id, NodeState.DOWN) for node in ordered if _given_up(node, now, brake)]
    reason = _brake_reason(ordered, lost, now, looked_at, brake)
    ended = {node.id: NodeState.UNKNOWN if reason or _unheard(node, now) else NodeState.DOWN for node in lost}
    ended |= {node.id: NodeState.UNKNOWN for node in ordered if _cut_off(node, now - looked_at)}
    states = sorted([*revived, *given_up, *ended.items()])
    return Verdict(tuple(states), bool(reason), reason)


def _unheard(node: NodeLease, now: float) -> bool:
    """Nobody listens to it: its link is open, but the web process at our end of it writes no leases."""
    return node.linked and now - node.web_seen > DEAF_AFTER


def _cut_off(node: NodeLease, unwatched: float) -> bool:
    """It lost its link, and then the control plane was away for `unwatched` seconds: it could not come back to anybody."""
    return node.state is NodeState.SUSPECT and not node.linked and unwatched > INTERRUPTED_AFTER


def _revived(node: NodeLease, now: float) -> bool:
    return node.state is NodeState.UNKNOWN and node.linked and node.lease_until > now


def _given_up(node: NodeLease, now: float, brake: Brake) -> bool:
    """An unknown node whose long grace is over, or whose brake an operator released."""
    if node.state is not NodeState.UNKNOWN or node.lease_until > now:
        return False
    return now >= node.state_at + UNKNOWN_GRACE or brake.released_at > node.state_at


def _brake_reason(nodes: Sequence[NodeLease], lost: Sequence[NodeLease], now: float, looked_at: float, brake: Brake) -> str:
    if not lost:
        return ""
    if now - looked_at > BLIND_AFTER:
        return f"nobody watched the nodes for {now - looked_at:.0f} s, so {len(lost)} silent nodes get a longer grace"
    if now - brake.released_at < BRAKE_WINDOW:
        return ""
    if brake.engaged_at and now - brake.engaged_at < UNKNOWN_GRACE:
        return f"the mass-failure brake is on, {len(lost)} more nodes fell silent"
    lately = [node for node in nodes if node.state is NodeState.DOWN and now - node.state_at < BRAKE_WINDOW]
    standing = [node for node in nodes if node.state in (NodeState.READY, NodeState.SUSPECT)]
    failing, of = len(lost) + len(lately), len(standing) + len(lately)
    if failing >= BRAKE_LEAST and failing > BRAKE_SHARE * of:
        return (
            f"{failing} of {of} nodes fell silent within {BRAKE_WINDOW:.0f} s: nothing is rescheduled for {UNKNOWN_GRACE:.0f} s"
        )
    return ""
