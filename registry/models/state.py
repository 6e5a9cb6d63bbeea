"""The registry's own state."""

from __future__ import annotations

from django.db import models


class ReadOnly(models.Model):
    """One row while the registry is read-only, none otherwise."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    reason = models.CharField(max_length=500)
    since = models.DateTimeField()
    by = models.CharField(max_length=150)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="registry_read_only_once")]

    def __str__(self) -> str:
        return self.reason
