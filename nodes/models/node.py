"""A host with an agent."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from agent.protocol.states import Availability, NodeState
from controlplane.api.models import Versioned


class NodeQuerySet(models.QuerySet["Node"]):
    def members(self) -> NodeQuerySet:
        """Nodes that were not removed."""
        return self.exclude(state=NodeState.LEFT)

    def linked_to(self, web_id: str) -> NodeQuerySet:
        return self.filter(web_id=web_id).exclude(session="")


class Node(Versioned):
    """`id` is the CN of its certificate. The certificate proves a key; this row grants everything else."""

    # written by join and by administrators
    hostname = models.CharField(max_length=253)  # also by the node's inventory
    role = models.CharField(max_length=16, default="worker")
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="nodes")
    labels = models.JSONField(default=dict)  # node.labels.*
    availability = models.CharField(max_length=8, default=Availability.ACTIVE, choices=[(a.value, a.value) for a in Availability])
    approved_at = models.DateTimeField(null=True)  # NULL: linked, but never given a task
    fingerprint = models.CharField(max_length=64, unique=True)  # sha256 of the certificate, by join and renewal
    next_fingerprint = models.CharField(max_length=64, blank=True, db_index=True)  # renewed, not yet used
    certificate_until = models.DateTimeField()

    # written by nodes.link (through actions.register, link_lost, touch_leases) and the sweep
    state = models.CharField(max_length=8, default=NodeState.DOWN, choices=[(s.value, s.value) for s in NodeState])
    state_at = models.DateTimeField(default=timezone.now)  # since when it is in that state
    state_reason = models.CharField(max_length=300, blank=True)
    epoch = models.BigIntegerField(default=0)  # grows at each registration; every write a node causes is fenced by it
    boot_id = models.CharField(max_length=64, blank=True)
    previous_boot_id = models.CharField(max_length=64, blank=True)  # one that comes back betrays a cloned machine
    session = models.CharField(max_length=64, blank=True)  # of the link, "" when none is open
    web_id = models.CharField(max_length=64, blank=True)  # the web process that holds the link
    lease_until = models.DateTimeField(null=True)  # database clock
    linked_at = models.DateTimeField(null=True)
    adopt_since = models.DateTimeField(null=True)  # the database went back in time: unknown containers wait for an operator

    # written with every change of the node's desired set, in the same transaction
    assign_rev = models.BigIntegerField(default=0)

    # written from what the node reports
    agent_version = models.CharField(max_length=40, blank=True)
    os = models.CharField(max_length=16, default="linux")
    architecture = models.CharField(max_length=16, blank=True)
    nano_cpus = models.BigIntegerField(default=0)
    memory = models.BigIntegerField(default=0)
    engine_labels = models.JSONField(default=dict)  # engine.labels.*
    addresses = models.JSONField(default=list)
    inventory = models.JSONField(default=dict)  # the whole Inventory message

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["hostname", "id"]
        indexes = [
            models.Index(fields=["state"], name="nodes_node_state"),
            models.Index(fields=["web_id"], name="nodes_node_web"),
        ]
        constraints = [models.CheckConstraint(condition=Q(epoch__gte=0), name="nodes_epoch_positive")]

    def __str__(self) -> str:
        return self.hostname

    @property
    def pending(self) -> bool:
        """It waits for an administrator's approval."""
        return self.approved_at is None

    @property
    def linked(self) -> bool:
        return bool(self.session)
