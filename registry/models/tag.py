"""Tags and where they pointed before."""

from __future__ import annotations

from typing import Any

from django.db import models

from registry.models.blob import DIGEST_LENGTH
from registry.models.manifest import Manifest
from registry.models.repository import Repository


class Tag(models.Model):
    """A name for a manifest of the same repository."""

    id: Any
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="tags")
    # PostgreSQL sorts by the database's locale unless told: tag lists are in ASCII order (distribution-spec, "Listing Tags").
    name = models.CharField(max_length=128)
    manifest = models.ForeignKey(Manifest, on_delete=models.CASCADE, related_name="tags")
    pushed_by = models.CharField(max_length=150, blank=True)
    pushed_at = models.DateTimeField()
    pulled_at = models.DateTimeField(null=True, blank=True)  # in batches by registry.actions.pulls alone; null = never

    class Meta:
        constraints = [models.UniqueConstraint(fields=["repository", "name"], name="registry_tag_once")]

    def __str__(self) -> str:
        return self.name


class TagChange(models.Model):
    """One move of a tag: the time machine's memory. `before` and `after` are digests, "" for none."""

    id: Any
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="tag_changes")
    tag = models.CharField(max_length=128)
    before = models.CharField(max_length=DIGEST_LENGTH, blank=True)
    after = models.CharField(max_length=DIGEST_LENGTH, blank=True)
    actor_name = models.CharField(max_length=150, blank=True)
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["repository", "tag", "at"], name="registry_tag_history")]
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.tag} {self.before} -> {self.after}"
