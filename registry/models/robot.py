"""Accounts of programs (docs/adr/0025)."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from controlplane.api.models import Versioned
from registry.models.repository import Namespace


class Robot(Versioned):
    """A program's account: what it may do is written on it, and nothing else gives it more.

    `rights` is a list of {"repositories": glob, "actions": ["pull", "push", "delete", "create"]}; a glob's `*` also matches "/".
    """

    name = models.CharField(max_length=100)  # without the namespace
    full_name = models.CharField(max_length=255, unique=True)  # its login: "team+ci"; "+ci" of one that is no namespace's
    namespace = models.ForeignKey(Namespace, on_delete=models.CASCADE, null=True, related_name="robots")  # null: the system's
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="+")  # where its rights are judged
    description = models.CharField(max_length=200, blank=True)
    rights = models.JSONField(default=list)
    cidrs = models.JSONField(default=list)  # source networks; empty = any
    secret_hash = models.CharField(max_length=64)
    secret_made_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    disabled = models.BooleanField(default=False)
    created_by = models.CharField(max_length=150)
    last_used_at = models.DateTimeField(null=True)  # written at most once a minute
    last_used_address = models.CharField(max_length=45, blank=True)

    class Meta:
        ordering = ["full_name"]

    def __str__(self) -> str:
        return self.full_name

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @property
    def usable(self) -> bool:
        return not self.disabled and not self.expired
