"""What every row of the control plane has, and the table of idempotency keys."""

from __future__ import annotations

from typing import Any

from django.db import models

from controlplane.api.ids import LENGTH, new_id


class Versioned(models.Model):
    """Base of rows that people edit: an id, a version that becomes the ETag, two times."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)  # grows by one at every write of the spec
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True

    @property
    def etag(self) -> str:
        return f'"v{self.version}"'


class IdempotencyKey(models.Model):
    """One POST with an Idempotency-Key: claimed before the work, completed with the answer, kept for 24 hours."""

    id: Any
    actor = models.CharField(max_length=80)
    key = models.CharField(max_length=128)
    fingerprint = models.CharField(max_length=64)  # sha256 of method, path and body
    status = models.PositiveSmallIntegerField(null=True)  # NULL while the first request runs
    headers = models.JSONField(default=dict)
    body = models.BinaryField(default=b"")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["actor", "key"], name="idempotency_actor_key")]

    def __str__(self) -> str:
        return f"{self.actor} {self.key}"
