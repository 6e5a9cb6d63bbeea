"""What keeps, limits and moves images: one row a policy."""

from __future__ import annotations

from django.db import models

from controlplane.api.ids import LENGTH
from controlplane.api.models import Versioned
from registry.models.repository import Namespace, Repository


class Policy(Versioned):
    """Of one repository, or with `repository` null of those in the namespace that `repositories` fits.

    `rules` and `options` are plain data, checked by registry.actions.drafts when they are saved:

        kind          rules                              options
        immutability  []                                 {}
        pruning       registry.rules.Rule, all must fit  {}
        retention     registry.rules.retention.Keep      {"untagged": bool}
        promotion     registry.rules.Rule, all must fit  {"target": "ns/name", "template": "%n"}
    """

    class Kind(models.TextChoices):
        IMMUTABILITY = "immutability"
        PRUNING = "pruning"
        RETENTION = "retention"
        PROMOTION = "promotion"

    kind = models.CharField(max_length=16, choices=Kind.choices)  # set at creation, never changed
    namespace = models.ForeignKey(Namespace, on_delete=models.CASCADE, related_name="policies")
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, null=True, blank=True, related_name="policies")
    enabled = models.BooleanField(default=True)
    repositories = models.CharField(max_length=128, default="**")  # a pattern of names without the namespace
    tags = models.CharField(max_length=128, default="*")  # a pattern; what does not fit is none of the policy's business
    rules = models.JSONField(default=list)
    options = models.JSONField(default=dict)
    since = models.DateTimeField(null=True, blank=True)  # only tags pushed after it; null = all
    author_id = models.CharField(max_length=LENGTH, blank=True)  # who saved it last: whose rights it was judged by
    author_name = models.CharField(max_length=150, blank=True)
    ran_at = models.DateTimeField(null=True, blank=True)  # by the jobs
    ran = models.JSONField(default=dict)  # by the jobs: {"looked_at", "done", "kept", "failed"}

    class Meta:
        ordering = ["created_at", "id"]
        verbose_name_plural = "policies"
        indexes = [models.Index(fields=["repository", "kind"], name="registry_policy_of")]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"
