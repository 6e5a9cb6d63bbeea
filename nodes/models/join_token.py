"""Rights to join: a bounded secret, stored hashed, with what a node that shows it becomes."""

from __future__ import annotations

import hashlib

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from controlplane.api.ids import LENGTH, new_id


class JoinTokenQuerySet(models.QuerySet["JoinToken"]):
    def usable(self) -> JoinTokenQuerySet:
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), revoked_at=None, uses_left__gt=0)

    def by_secret(self, secret: str) -> JoinTokenQuerySet:
        """By hash: the lookup compares digests, so its timing tells nothing about the secret."""
        return self.filter(secret_hash=hash_secret(secret))


def hash_secret(secret: str) -> str:
    """sha256 in hex: 128 random bits need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


class JoinToken(models.Model):
    """Every field is written at creation by an administrator, but `uses_left` (by join) and `revoked_at`."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    name = models.CharField(max_length=100)
    secret_hash = models.CharField(max_length=64, unique=True)
    role = models.CharField(max_length=16, default="worker")
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="+")
    labels = models.JSONField(default=dict)  # given to the nodes that join
    uses_left = models.PositiveIntegerField(default=1)
    cidrs = models.JSONField(default=list)  # source networks; empty = any
    needs_approval = models.BooleanField(default=False)
    expires_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects = JoinTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name
