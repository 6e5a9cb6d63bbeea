"""One-shot acts on a node's containers and images: rows first, so that a lost link or process loses none."""

from __future__ import annotations

from enum import StrEnum

from django.db import models

from controlplane.api.ids import LENGTH, new_id


class ActionState(StrEnum):
    QUEUED = "queued"  # waits for the node's link
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"  # the node did not answer until the deadline; it refuses to act on it later


class ActionQuerySet(models.QuerySet["Action"]):
    def queued(self) -> ActionQuerySet:
        return self.filter(state=ActionState.QUEUED)


class Action(models.Model):
    """`id` is the action_id that the node journals: a repeat returns the stored result instead of acting again.

    Everything is written at queuing, but state, result, error and finished_at: by the node's ActionResult, or by the sweep
    (EXPIRED).
    """

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="actions")
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="+")  # of what it acts on
    kind = models.CharField(max_length=40)
    target = models.CharField(max_length=64, blank=True)  # container id
    args = models.JSONField(default=dict)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=150, blank=True)
    state = models.CharField(max_length=8, default=ActionState.QUEUED, choices=[(s.value, s.value) for s in ActionState])
    result = models.JSONField(default=dict)
    error = models.JSONField(default=dict)  # WharfError.as_dict()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    deadline = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    objects = ActionQuerySet.as_manager()

    class Meta:
        ordering = ["created_at", "id"]
        indexes = [models.Index(fields=["node", "state"], name="nodes_action_queue")]

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"

    @property
    def finished(self) -> bool:
        return self.state != ActionState.QUEUED
