"""Deleted manifests that can be brought back."""

from __future__ import annotations

from typing import Any

from django.db import models

from registry.models.blob import DIGEST_LENGTH
from registry.models.manifest import Manifest
from registry.models.repository import Repository


class Trashed(models.Model):
    """A deleted manifest. `manifest` is the very row, moved to the room that keeps what `repository` lost: its references hold.

    What went in one act (an image with the children and referrers that nothing else needed) shares `act`.
    """

    id: Any
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="trash")
    manifest = models.OneToOneField(Manifest, on_delete=models.CASCADE, related_name="trashed")
    digest = models.CharField(max_length=DIGEST_LENGTH)
    tags = models.JSONField(default=list)  # that pointed at it then
    act = models.CharField(max_length=32)
    deleted_at = models.DateTimeField(db_index=True)
    actor_name = models.CharField(max_length=150, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["repository", "digest"], name="registry_trashed_once")]
        ordering = ["-deleted_at", "-id"]

    def __str__(self) -> str:
        return self.digest
