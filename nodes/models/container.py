"""What runs on a node and what it stores, as the node reports it."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.utils import timezone

from agent.protocol.states import ContainerState
from controlplane.api.ids import LENGTH, new_id


class ContainerQuerySet(models.QuerySet["Container"]):
    def running(self) -> ContainerQuerySet:
        return self.filter(state=ContainerState.RUNNING)

    def called(self, text: str) -> ContainerQuerySet:
        """What `text` may mean: our id, the runtime's id or a prefix of it (at least 4 characters), or a name."""
        exact = self.filter(models.Q(pk=text) | models.Q(container_id=text) | models.Q(name=text))
        if len(text) < 4 or exact.exists():
            return exact
        return self.filter(container_id__startswith=text)


class Container(models.Model):
    """Written from the node's reports only, but `collection`: of the service, of the action that made it, else the node's."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="containers")
    container_id = models.CharField(max_length=64)  # the runtime's; unique on its node only, a node could claim another's
    task = models.ForeignKey("nodes.Task", on_delete=models.SET_NULL, null=True, related_name="containers")
    service = models.ForeignKey("nodes.Service", on_delete=models.SET_NULL, null=True, related_name="containers")
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=128)
    image = models.CharField(max_length=600)
    image_id = models.CharField(max_length=140, blank=True)
    command = models.CharField(max_length=300, blank=True)
    state = models.CharField(max_length=12)
    health = models.CharField(max_length=12, blank=True)
    pid = models.PositiveIntegerField(default=0)
    exit_code = models.IntegerField(null=True)
    oom_killed = models.BooleanField(default=False)
    restarts = models.PositiveIntegerField(default=0)
    isolation = models.CharField(max_length=12, blank=True, db_default="")  # shared or shim; "" where the agent does not say
    labels = models.JSONField(default=dict)
    addresses = models.JSONField(default=list)
    ports = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)  # node's clock, as all three
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = ContainerQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "pk"]
        constraints = [models.UniqueConstraint(fields=["node", "container_id"], name="nodes_container_once")]
        indexes = [models.Index(fields=["container_id"], name="nodes_container_id")]

    def __str__(self) -> str:
        return self.name


class NodeImage(models.Model):
    """An image in a node's store."""

    id: Any
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="images")
    image_id = models.CharField(max_length=140)
    size = models.BigIntegerField(default=0)
    tags = models.JSONField(default=list)
    digests = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["node", "image_id"]
        constraints = [models.UniqueConstraint(fields=["node", "image_id"], name="nodes_image_once")]

    def __str__(self) -> str:
        return self.image_id
