"""Workers, and leases on roles that one worker at a time plays."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from controlplane.api.ids import LENGTH, new_id


class Worker(models.Model):
    """One worker process. Its row lock orders its claims, so that running + wanted never passes the capacity."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    capacity = models.JSONField(default=dict)  # {"slots": 4, "gc": 1}; a missing key is 0
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    leaving = models.BooleanField(default=False)

    class Meta:
        ordering = ["started_at"]

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Lease(models.Model):
    """Who plays a role. It only saves work: everything the holder does is a conditional write."""

    name = models.CharField(primary_key=True, max_length=40)
    holder = models.CharField(max_length=LENGTH)
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} {self.holder}"
