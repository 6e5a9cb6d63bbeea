"""Usage of the last quarter of an hour: a ring of rows a node, overwritten in place, so nothing needs trimming."""

from __future__ import annotations

from typing import Any

from django.db import models

PERIOD = 10  # seconds between samples
RING = 90  # rows a node: 15 minutes


class UsageSample(models.Model):
    """One batch of a node: `usage` its own counters, `containers` those of each running container by the runtime's id."""

    id: Any
    node = models.ForeignKey("nodes.Node", on_delete=models.CASCADE, related_name="samples")
    place = models.PositiveSmallIntegerField()  # in the ring
    at = models.DateTimeField(db_index=True)  # control plane's clock
    usage = models.JSONField(default=dict)
    containers = models.JSONField(default=dict)

    class Meta:
        ordering = ["node", "at"]
        constraints = [models.UniqueConstraint(fields=["node", "place"], name="nodes_sample_ring")]

    def __str__(self) -> str:
        return f"{self.node_id} at {self.at}"
