"""Other registries that repositories are kept equal with, and those whose content is kept here for a while."""

from __future__ import annotations

from typing import Any

from django.db import models

from controlplane.api.ids import LENGTH
from controlplane.api.models import Versioned
from registry.models.blob import DIGEST_LENGTH
from registry.models.repository import Namespace, Repository


class Elsewhere(Versioned):
    """Another registry and who we are there."""

    url = models.CharField(max_length=300)  # "https://host[:port]"
    username = models.CharField(max_length=255, blank=True)
    sealed_secret = models.TextField(blank=True)  # registry.sealed, bound to the row; "" = none
    tls_verify = models.BooleanField(default=True)
    tls_ca = models.TextField(blank=True)  # PEM; "" = the host's authorities
    created_by = models.CharField(max_length=150, blank=True)

    class Meta:
        abstract = True

    @property
    def host(self) -> str:
        return str(self.url).partition("://")[2]


class Mirror(Elsewhere):
    """Keeps a repository here and one elsewhere equal: PUSH sends ours there, PULL brings theirs here."""

    class Direction(models.TextChoices):
        PUSH = "push"
        PULL = "pull"

    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="mirrors")
    direction = models.CharField(max_length=4, choices=Direction.choices)  # set at creation, never changed
    remote_name = models.CharField(max_length=255)  # the repository there
    rules: Any = models.JSONField(default=list)  # registry.rules.Rule as plain data; all must be met, none = every tag
    enabled = models.BooleanField(default=True)
    on_event = models.BooleanField(default=True)  # PUSH: after each push here
    cron = models.CharField(max_length=100, blank=True)  # 6 fields, seconds first, UTC; "" = never by itself
    next_due = models.DateTimeField(null=True, blank=True, db_index=True)  # by registry.actions.mirror_runs; null without cron
    speed = models.PositiveIntegerField(default=0)  # kB/s; 0 = as fast as it goes
    deletions = models.BooleanField(default=False)  # also remove there what was mirrored and is gone here
    # all below by registry.actions.mirror_runs
    job_id = models.CharField(max_length=LENGTH, blank=True)  # of the run that has the mirror, or had it last
    ran_at = models.DateTimeField(null=True, blank=True)  # when the last run ended
    result: Any = models.JSONField(default=dict)  # of it: registry.actions.mirror_runs.Result
    error = models.CharField(max_length=500, blank=True)  # of it; "" = all went well

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            # two sources would overwrite each other's tags for ever
            models.UniqueConstraint(fields=["repository"], condition=models.Q(direction="pull"), name="registry_one_pull_mirror")
        ]

    def __str__(self) -> str:
        return f"{self.direction} {self.remote}"

    @property
    def remote(self) -> str:
        return f"{self.host}/{self.remote_name}"


class MirroredTag(models.Model):
    """What a mirror last did with a tag. Only what stands here is ever deleted on the other side."""

    id: Any
    mirror = models.ForeignKey(Mirror, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=128)
    digest = models.CharField(max_length=DIGEST_LENGTH)
    graph = models.CharField(max_length=64)  # sha256 over the digests of everything that belongs to it
    at = models.DateTimeField()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["mirror", "name"], name="registry_mirrored_tag_once")]

    def __str__(self) -> str:
        return self.name


class Proxy(Elsewhere):
    """A namespace that shows what another registry has, and keeps what was pulled."""

    namespace = models.OneToOneField(Namespace, on_delete=models.CASCADE, related_name="proxy")
    prefix = models.CharField(max_length=255, blank=True)  # of names there: "hub/nginx" here is "<prefix>/nginx" there
    visibility = models.CharField(max_length=8, choices=Repository.Visibility.choices, default=Repository.Visibility.PRIVATE)
    fresh = models.PositiveIntegerField(default=60)  # seconds for which a tag is not asked about again
    keep_days = models.PositiveIntegerField(default=30)  # after the last pull; 0 = for ever
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["created_at", "id"]
        verbose_name_plural = "proxies"

    def __str__(self) -> str:
        return f"proxy of {self.host}/{self.prefix}"

    def remote_name(self, full_name: str) -> str:
        rest = full_name.partition("/")[2]
        return f"{self.prefix}/{rest}" if self.prefix else rest


class Proxied(models.Model):
    """A tag or digest of a proxied repository: when it was last asked about there, and last pulled here."""

    id: Any
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="proxied")
    name = models.CharField(max_length=DIGEST_LENGTH)  # a tag, or the digest of what was pulled by digest
    checked_at = models.DateTimeField()  # when the other registry answered
    pulled_at = models.DateTimeField(db_index=True)  # to the hour

    class Meta:
        constraints = [models.UniqueConstraint(fields=["repository", "name"], name="registry_proxied_once")]

    def __str__(self) -> str:
        return self.name
