"""Who is told about what, and every telling."""

from __future__ import annotations

from typing import Any

from django.db import models

from controlplane.api.ids import LENGTH, new_id
from controlplane.api.models import Versioned
from registry.models.blob import DIGEST_LENGTH
from registry.models.repository import Namespace, Repository

# DTR's types; those of a repository may be subscribed to on a repository, the others only wider
REPOSITORY_TYPES = (
    *("TAG_PUSH", "TAG_PULL", "TAG_DELETE", "MANIFEST_PUSH", "MANIFEST_PULL", "MANIFEST_DELETE"),
    *("SCAN_COMPLETED", "SCAN_FAILED", "PROMOTION", "PUSH_MIRRORING", "POLL_MIRRORING"),
)
NAMESPACE_TYPES = (*REPOSITORY_TYPES, "REPO_EVENT")
TYPES = (*NAMESPACE_TYPES, "SCANNER_UPDATE_COMPLETED")


class Webhook(Versioned):
    """A subscription: of one repository, of a namespace, or with neither of everything (administrators)."""

    class Format(models.TextChoices):
        DTR = "dtr"  # {"type", "createdAt", "contents"}
        CLOUDEVENTS = "cloudevents"  # CloudEvents 1.0, structured JSON

    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, null=True, blank=True, related_name="webhooks")
    namespace = models.ForeignKey(Namespace, on_delete=models.CASCADE, null=True, blank=True, related_name="webhooks")
    types: Any = models.JSONField(default=list)  # some of TYPES
    url = models.CharField(max_length=2000)
    format = models.CharField(max_length=16, choices=Format.choices, default=Format.DTR)
    sealed_secret = models.TextField()  # registry.sealed, "webhook:<id>"; what signs, shown once
    tls_verify = models.BooleanField(default=True)
    tls_ca = models.TextField(blank=True)  # PEM; "" = the host's authorities
    active = models.BooleanField(default=True)  # by people, and switched off by registry.actions.deliveries
    failures = models.PositiveIntegerField(default=0)  # deliveries given up one after another; by registry.actions.deliveries
    disabled_reason = models.CharField(max_length=300, blank=True)  # likewise; "" = by people
    last_success_at = models.DateTimeField(null=True, blank=True)  # likewise
    created_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(repository__isnull=True) | models.Q(namespace__isnull=True), name="registry_webhook_one_scope"
            )
        ]

    def __str__(self) -> str:
        return f"webhook {self.pk}"

    @property
    def scope(self) -> str:
        """ "ns/name", "ns/" or "" for everything."""
        if self.repository is not None:
            return self.repository.full_name
        return f"{self.namespace.name}/" if self.namespace is not None else ""


class Delivery(models.Model):
    """One request to one endpoint, over all its attempts. The newest of a webhook are kept."""

    class State(models.TextChoices):
        QUEUED = "queued"  # not yet tried, or to be tried again
        DELIVERED = "delivered"
        FAILED = "failed"  # given up

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    type = models.CharField(max_length=32)
    event_id = models.BigIntegerField(default=0)  # 0 for a test
    subject = models.CharField(max_length=DIGEST_LENGTH, blank=True)  # the tag or digest it is about
    origin = models.CharField(max_length=LENGTH, blank=True)  # of a redelivery: the first one's id, which the endpoint sees
    body = models.TextField()
    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    status = models.PositiveSmallIntegerField(null=True, blank=True)  # of the last attempt; null = no answer
    excerpt = models.TextField(blank=True)  # of its answer
    error = models.CharField(max_length=500, blank=True)
    duration = models.FloatField(default=0)  # seconds
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    tried_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "deliveries"
        constraints = [
            # an event that a reaction is asked about twice is told once
            models.UniqueConstraint(
                fields=["webhook", "event_id", "type", "subject"],
                condition=models.Q(origin="") & ~models.Q(event_id=0),
                name="registry_delivery_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.pk}"

    @property
    def seen_as(self) -> str:
        """The id that the endpoint sees: a redelivery keeps the first one's, so that a receiver knows it again."""
        return self.origin or self.pk
