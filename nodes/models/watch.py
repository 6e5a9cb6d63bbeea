"""Who watches the nodes and services, and the mass-failure brake: one row."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class Watch(models.Model):
    """Written by the process that holds the lease, but `brake_released_at`: by an administrator."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    holder = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True)
    looked_at = models.DateTimeField(null=True)  # the last round; a gap means that nobody saw what happened in it
    brake_engaged_at = models.DateTimeField(null=True)
    brake_released_at = models.DateTimeField(null=True)
    brake_reason = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="nodes_one_watch")]

    def __str__(self) -> str:
        return f"watched by {self.holder or 'nobody'}"
