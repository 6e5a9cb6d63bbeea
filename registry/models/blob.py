"""Blobs, where they are used, and what keeps them."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from registry.models.repository import Repository

DIGEST_LENGTH = 135  # "sha512:" and 128 hex digits


class Blob(models.Model):
    """Stored bytes. The row is the truth: a file without a row does not exist for anybody.

    Whoever adds a reference first locks this row and finds it LIVE; the collector locks it, then looks for references. Never the
    other way round: under READ COMMITTED a look before the lock misses what commits in between.

    All writers lock in one order, each kind by ascending id: blobs, links, manifests, tags, the repository, the audit chain. The
    locks are FOR NO KEY UPDATE, which keep one another out but let foreign keys be checked.
    """

    class State(models.IntegerChoices):
        LIVE = 64
        DELETING = 128  # claimed by the collector; only a new upload of the same bytes makes it LIVE again
        QUARANTINED = 192  # its bytes are spoilt or gone; a new upload makes it LIVE, the collector takes it when nobody needs it

    id: Any
    digest = models.CharField(max_length=DIGEST_LENGTH, unique=True)
    size = models.BigIntegerField()
    state = models.PositiveSmallIntegerField(choices=State.choices, default=State.LIVE)
    ver = models.PositiveIntegerField(default=1)  # grows with each change of state or touch
    last_touched = models.DateTimeField(db_index=True)  # by uploads, mounts, dropped references; at most one write per grace / 4
    verified_at = models.DateTimeField(default=timezone.now, db_index=True)  # by the upload, which hashed it, and by the scrub
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.digest


class RepositoryBlob(models.Model):
    """A blob is in a repository: it was uploaded or mounted there."""

    id: Any
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="blob_links")
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="links")
    pushed_by = models.CharField(max_length=150, blank=True)
    touched_at = models.DateTimeField(db_index=True)  # by pushers that found it there; protects it until their manifest comes

    class Meta:
        constraints = [models.UniqueConstraint(fields=["repository", "blob"], name="registry_blob_once_per_repository")]

    def __str__(self) -> str:
        return f"{self.repository_id} {self.blob_id}"


class Lease(models.Model):
    """A digest that a running container needs: no collector may take it, referenced or not.

    `digest` is one of the closure of `root` (the image's manifest, its config, its layers).
    """

    id: Any
    root = models.CharField(max_length=DIGEST_LENGTH, db_index=True)
    digest = models.CharField(max_length=DIGEST_LENGTH, db_index=True)
    repository = models.CharField(max_length=255, blank=True)  # where the holder pulls it from, by full name; "" = from any
    holder = models.CharField(max_length=100, db_index=True)  # "service/<id>", "container/<id>", "action/<id>"
    expires_at = models.DateTimeField(null=True, blank=True)  # null: until released
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["holder", "root", "digest"], name="registry_lease_once")]

    def __str__(self) -> str:
        return f"{self.holder} {self.digest}"

    @staticmethod
    def valid(now: Any) -> Q:
        return Q(expires_at__isnull=True) | Q(expires_at__gt=now)
