"""Cron rows."""

from __future__ import annotations

from django.db import models


class ScheduleRow(models.Model):
    """A declared schedule as the operator left it. Code writes `declared_cron`; people write `cron` and `enabled`."""

    name = models.CharField(primary_key=True, max_length=80)
    kind = models.CharField(max_length=80)
    cron = models.CharField(max_length=100)  # 6 fields, seconds first, UTC
    declared_cron = models.CharField(max_length=100)
    payload = models.JSONField(default=dict)
    priority = models.PositiveSmallIntegerField(default=1000)
    enabled = models.BooleanField(default=True)
    next_due = models.DateTimeField(db_index=True)  # written by the sweeper, conditionally on its old value

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name} {self.cron}"
