"""Hints after the commit: nothing leaves the process inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from controlplane.events import hints
from nodes import topics


def reconcile_after_commit() -> None:
    """A service, task or node changed: the reconciler should look."""
    transaction.on_commit(lambda: hints.publish(topics.RECONCILE, {}))


def assignments_after_commit(node_ids: Iterable[str]) -> None:
    """The desired sets of these nodes changed: their links should look."""
    nodes = sorted(set(node_ids))
    if nodes:
        transaction.on_commit(lambda: hints.publish(topics.ASSIGNMENTS, {"nodes": nodes}))


def containers_after_commit(node_id: str) -> None:
    """What runs on the node changed: consoles should look."""
    transaction.on_commit(lambda: hints.publish(topics.CONTAINERS, {"node": node_id}))


def session_after_commit(node_id: str) -> None:
    """The node's row changed in a way that its link must act on (removed, approved)."""
    transaction.on_commit(lambda: hints.publish(topics.SESSIONS, {"node": node_id}))
