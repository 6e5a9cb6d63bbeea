"""A blob upload in progress."""

from __future__ import annotations

from typing import Any

from django.db import models

from controlplane.api.ids import LENGTH, new_id
from registry.models.repository import Repository


class Upload(models.Model):
    """One session. `offset` bytes are stored and hashed into `state`; what the file has beyond them does not count.

    The one writer holds (epoch, busy_until): it takes the epoch by a conditional UPDATE and renews busy_until while it writes. A
    writer whose epoch is no longer the row's has been replaced and its later writes change nothing.
    """

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id)
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="uploads")
    algorithm = models.CharField(max_length=8, default="sha256")
    offset = models.BigIntegerField(default=0)  # by the writer
    state: Any = models.BinaryField(null=True)  # by the writer; null = hash again from the stored bytes
    epoch = models.PositiveIntegerField(default=0)  # by whoever becomes the writer
    reserved = models.BigIntegerField(default=0)  # bytes of the namespace's quota, by registry.actions.quotas alone
    busy_until = models.DateTimeField(null=True)  # by the writer; null = nobody writes
    started_by = models.CharField(max_length=150, blank=True)
    expires_at = models.DateTimeField(db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.id
