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
from nodes.models import Node


def scheduling_root(actor: Actor, collection: Collection) -> Collection:
    """The collection below which nodes may take the workload. Raises `NoSchedulingRight`.

    A right that reaches no node while the cluster has nodes is no right to schedule: what waits for a node that the writer may
    not use would wait for ever.
    """
    rows = {row.path: row for row in Collection.objects.filter(path__in=ancestors(collection.path))}
    for path in ancestors(collection.path):
        if path in rows and rbac.explain(actor, "Node Schedule", rows[path]).allowed:
            if _reaches_nodes(path):
                return rows[path]
            raise _refused(f"You may schedule below {path} only, and no node is there", collection)
    raise _refused(f"You may not schedule on any node for {collection.path}", collection)


def _reaches_nodes(path: str) -> bool:
    nodes = Node.objects.members()
    return nodes.filter(collection__path__startswith=path).exists() or not nodes.exists()


def _refused(why: str, collection: Collection) -> NoSchedulingRight:
    return NoSchedulingRight(
        f"{why}: a grant of the role Scheduler on {collection.path} or on a collection above it, with nodes below, would"
        " allow it.",
        operation="Node Schedule",
        collection=collection.path,
    )
