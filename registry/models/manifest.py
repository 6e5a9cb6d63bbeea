"""Manifests and indexes, byte for byte."""

from __future__ import annotations

from typing import Any

from django.db import models

from registry.models.blob import DIGEST_LENGTH, Blob
from registry.models.repository import Repository


class Manifest(models.Model):
    """A manifest in one repository. `content` alone is served and hashed; the other columns are read from it once, at push."""

    id: Any
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="manifests")
    digest = models.CharField(max_length=DIGEST_LENGTH)
    media_type = models.CharField(max_length=255)
    content = models.BinaryField()
    size = models.PositiveIntegerField()  # of content
    total_size = models.BigIntegerField(default=0)  # bytes of config and layers, for people
    artifact_type = models.CharField(max_length=255, blank=True)  # as the referrers API shows it
    annotations = models.JSONField(default=dict)
    subject = models.CharField(max_length=DIGEST_LENGTH, blank=True)
    platforms = models.JSONField(default=list)  # ["linux/amd64", ...]; of an image: from its config
    pushed_by = models.CharField(max_length=150, blank=True)
    pushed_at = models.DateTimeField(auto_now_add=True)
    pulled_at = models.DateTimeField(null=True, blank=True)  # in batches by registry.actions.pulls alone; null = never

    class Meta:
        constraints = [models.UniqueConstraint(fields=["repository", "digest"], name="registry_manifest_once")]
        indexes = [
            models.Index(fields=["repository", "subject", "digest"], name="registry_referrers"),
            models.Index(fields=["digest"], name="registry_manifest_digest"),
        ]

    def __str__(self) -> str:
        return self.digest


class ManifestBlob(models.Model):
    """A manifest needs a blob of its own repository."""

    id: Any
    manifest = models.ForeignKey(Manifest, on_delete=models.CASCADE, related_name="blobs")
    repository = models.ForeignKey(
        Repository, on_delete=models.CASCADE, related_name="+"
    )  # the manifest's, for the collector's look
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="manifests")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["manifest", "blob"], name="registry_manifest_blob_once")]
        indexes = [models.Index(fields=["repository", "blob"], name="registry_blob_in_use")]

    def __str__(self) -> str:
        return f"{self.manifest_id} {self.blob_id}"


class ManifestChild(models.Model):
    """An index names a manifest. By digest, not by row: a sparse index may name what is not here."""

    id: Any
    manifest = models.ForeignKey(Manifest, on_delete=models.CASCADE, related_name="children")
    digest = models.CharField(max_length=DIGEST_LENGTH, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["manifest", "digest"], name="registry_manifest_child_once")]

    def __str__(self) -> str:
        return self.digest
