"""One attempt to run a service's template on one node; never restarted, only replaced."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from agent.protocol.states import TaskState
from controlplane.api.ids import LENGTH, new_id

LIVE = Q(desired__lte=TaskState.RUNNING)


class TaskQuerySet(models.QuerySet["Task"]):
    def live(self) -> TaskQuerySet:
        """Wanted tasks."""
        return self.filter(LIVE)

    def occupying(self) -> TaskQuerySet:
        """Tasks that hold reservations and ports of their node."""
        return self.filter(node__isnull=False, observed__gte=TaskState.ASSIGNED, observed__lte=TaskState.RUNNING)

    def assigned_to(self, node_id: str) -> TaskQuerySet:
        """What the node knows of: everything bound to it, so that ended containers and their logs stay until the row goes."""
        return self.filter(node_id=node_id, observed__gte=TaskState.ASSIGNED)

    def fenced(self, node_id: str, epoch: int) -> TaskQuerySet:
        """Tasks that a session of the node may write: none when the epoch is stale."""
        return self.filter(node_id=node_id, node__epoch=epoch)


class Task(models.Model):
    """`desired` is written by the control plane only, `observed` by the node only (through actions.report), but for PENDING and
    ASSIGNED (scheduler), REJECTED (enforcer) and ORPHANED (timer, removed node). Both only grow."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    # written once, when the orchestrator makes the task
    service = models.ForeignKey("nodes.Service", on_delete=models.PROTECT, related_name="tasks")
    slot = models.PositiveIntegerField(default=0)  # 0 for global services: there the node is the slot
    spec = models.JSONField()  # ContainerSpec
    image = models.CharField(max_length=600)
    generation = models.PositiveIntegerField()
    template = models.CharField(max_length=64)
    fence = models.BigIntegerField(default=0)
    reserve_nano_cpus = models.BigIntegerField(default=0)
    reserve_memory = models.BigIntegerField(default=0)
    host_ports = models.JSONField(default=list)  # [[port, protocol]]
    start_after = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    # written once by the scheduler (at creation for global services)
    node = models.ForeignKey("nodes.Node", on_delete=models.PROTECT, null=True, related_name="tasks")

    desired = models.PositiveSmallIntegerField(default=TaskState.RUNNING)  # orchestrator
    observed = models.PositiveSmallIntegerField(default=TaskState.NEW)  # see the class
    observed_at = models.DateTimeField(default=timezone.now)  # control plane's clock
    running_at = models.DateTimeField(null=True)  # when RUNNING was first reported
    why_pending = models.JSONField(default=dict)  # scheduler: {"nodes", "reasons", "text"}

    # written by the node with its status
    status_at = models.FloatField(default=0.0)  # node's clock, unix seconds
    message = models.CharField(max_length=500, blank=True)
    error = models.CharField(max_length=2000, blank=True)
    container_id = models.CharField(max_length=64, blank=True, db_index=True)
    pid = models.PositiveIntegerField(default=0)
    exit_code = models.IntegerField(null=True)  # NULL: it runs, or nobody saw the exit
    oom_killed = models.BooleanField(default=False)
    health = models.CharField(max_length=16, blank=True)
    addresses = models.JSONField(default=list)
    ports = models.JSONField(default=list)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ["slot", "created_at"]
        indexes = [
            models.Index(fields=["service", "slot"], name="nodes_task_slot"),
            models.Index(fields=["node", "observed"], name="nodes_task_node"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["service", "slot", "generation"], condition=LIVE & Q(slot__gt=0), name="nodes_task_one_live"
            ),
            models.UniqueConstraint(
                fields=["service", "node", "generation"], condition=LIVE & Q(slot=0), name="nodes_task_one_global"
            ),
            models.CheckConstraint(
                condition=Q(observed__lt=TaskState.ASSIGNED) | Q(node__isnull=False) | Q(observed__gt=TaskState.RUNNING),
                name="nodes_task_assigned_has_node",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.service_id}.{self.slot}.{self.id}"

    @property
    def desired_state(self) -> TaskState:
        return TaskState(self.desired)

    @property
    def state(self) -> TaskState:
        return TaskState(self.observed)

    @property
    def live(self) -> bool:
        return self.desired <= TaskState.RUNNING


class HostPort(models.Model):
    """A port of a node that a task holds: taken in the assigning transaction, given back when the task has ended."""

    id: Any
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="host_ports")
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="held_ports")
    port = models.PositiveIntegerField()
    protocol = models.CharField(max_length=4)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["node", "port", "protocol"], name="nodes_host_port")]

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


class RestartHistory(models.Model):
    """One replacement by the restart policy: its limits and the sinking of failing nodes count these. Trimmed by the sweep."""

    id: Any
    service = models.ForeignKey("nodes.Service", on_delete=models.CASCADE, related_name="restarts")
    slot = models.PositiveIntegerField()
    node_id = models.CharField(max_length=LENGTH, blank=True)  # by value: the node may go
    generation = models.PositiveIntegerField()
    at = models.DateTimeField(db_index=True)
    failed = models.BooleanField()

    class Meta:
        indexes = [models.Index(fields=["service", "slot"], name="nodes_restart_slot")]
        verbose_name_plural = "restart history"

    def __str__(self) -> str:
        return f"{self.service_id}.{self.slot} at {self.at}"


def bump(node_ids: set[str]) -> None:
    """The desired sets of these nodes change: called in the transaction that changes them, before their tasks are written.

    Everybody locks nodes first, in id order, then tasks: transactions over overlapping rows would otherwise deadlock.
    """
    from nodes.models.node import Node  # the two models know each other

    if node_ids:
        list(Node.objects.select_for_update().filter(pk__in=node_ids).order_by("pk").values_list("pk", flat=True))
        Node.objects.filter(pk__in=node_ids).update(assign_rev=F("assign_rev") + 1)
