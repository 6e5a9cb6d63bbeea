"""Where a writer of a spec may schedule: the collection closest to the root, on the way up from the workload's, that grants it.

control-plane.md 2.1 "Node scheduling" (UCP): candidates are all nodes below that collection. The root found is stored with the
spec and found again at each write of the spec, for that writer.
"""

from __future__ import annotations

from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.rbac.collections import ancestors
from controlplane.rbac.models import Collection
from nodes.errors import NoSchedulingRight


def scheduling_root(actor: Actor, collection: Collection) -> Collection:
    """The collection below which nodes may take the workload. Raises `NoSchedulingRight`."""
    rows = {row.path: row for row in Collection.objects.filter(path__in=ancestors(collection.path))}
    for path in ancestors(collection.path):
        if path in rows and rbac.explain(actor, "Node Schedule", rows[path]).allowed:
            return rows[path]
    raise NoSchedulingRight(
        f"You may not schedule on any node for {collection.path}: a grant of the role Scheduler on it or on a collection above"
        " it, with nodes below, would allow it.",
        operation="Node Schedule",
        collection=collection.path,
    )
