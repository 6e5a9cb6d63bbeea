"""The one table of what happened, and what proves that nobody rewrote it."""

from __future__ import annotations

from django.db import models


class Event(models.Model):
    """A past-tense fact. Rows are only ever added, by controlplane.events.record; compaction removes the oldest."""

    id = models.BigIntegerField(primary_key=True)  # gapless: the chain head's counter, taken under its lock
    at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=80, db_index=True)  # "service.created"
    actor_kind = models.CharField(max_length=16)
    actor_id = models.CharField(max_length=64, blank=True, db_index=True)
    actor_name = models.CharField(max_length=150, blank=True)
    target = models.CharField(max_length=200, blank=True, db_index=True)  # "service/<id>"
    collection_path = models.CharField(max_length=1024, default="/")
    data = models.JSONField(default=dict)
    prev_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.id} {self.kind}"


class ChainHead(models.Model):
    """One row: the last event's number and hash. Its lock orders all appenders."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    sequence = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, default="0" * 64)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="events_one_head")]

    def __str__(self) -> str:
        return f"head {self.sequence}"


class Checkpoint(models.Model):
    """Left by compaction: everything up to and with `sequence` is gone, `hash` was its last hash, signed by the cluster."""

    sequence = models.BigIntegerField(primary_key=True)
    hash = models.CharField(max_length=64)
    at = models.DateTimeField()
    signature = models.CharField(max_length=64)

    class Meta:
        ordering = ["sequence"]

    def __str__(self) -> str:
        return f"checkpoint {self.sequence}"
