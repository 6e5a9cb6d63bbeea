"""How much is stored for whom, as of the last count."""

from __future__ import annotations

from typing import Any

from django.db import models


class Usage(models.Model):
    """Bytes of blobs in one scope, all scopes counted by one statement (registry.queries.usage says what adds up to what).

    The rows are replaced together by registry.actions.usage alone.
    """

    class Scope(models.TextChoices):
        REGISTRY = "registry"
        NAMESPACE = "namespace"
        REPOSITORY = "repository"

    id: Any
    scope = models.CharField(max_length=10, choices=Scope.choices)
    name = models.CharField(max_length=255, blank=True)  # of the namespace or repository, "" for the registry
    repositories = models.PositiveIntegerField(default=1)
    blobs = models.PositiveIntegerField()
    logical = models.BigIntegerField()  # each repository's blobs once: what its pushers see
    stored = models.BigIntegerField()  # each blob of the scope once
    unique = models.BigIntegerField()  # of `stored`: what no other scope of its kind holds
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "name"], name="registry_usage_once")]
        indexes = [models.Index(fields=["scope", "-stored"], name="registry_usage_largest")]

    def __str__(self) -> str:
        return f"{self.scope} {self.name}".strip()

    @property
    def shared(self) -> int:
        """Of `stored`: what other scopes of its kind hold too."""
        return self.stored - self.unique


class UsageSample(models.Model):
    """The registry's size at one time, for the chart."""

    id: Any
    at = models.DateTimeField(unique=True)
    logical = models.BigIntegerField()
    stored = models.BigIntegerField()  # blobs that a repository holds
    unlinked = models.BigIntegerField()  # blobs that no repository holds: the collector's, after their grace
    repositories = models.PositiveIntegerField()
    blobs = models.PositiveIntegerField()

    class Meta:
        ordering = ["at"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.stored}"
