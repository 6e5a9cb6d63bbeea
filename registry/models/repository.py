"""Namespaces and repositories."""

from __future__ import annotations

from typing import Any

from django.db import models

from controlplane.api.ids import LENGTH
from controlplane.api.models import Versioned


class Namespace(models.Model):
    """The first component of a repository's name, and who holds it.

    A user's and an organisation's namespace has their name; others ("library") are made by administrators.
    """

    class Kind(models.TextChoices):
        USER = "user"
        ORGANISATION = "organisation"
        PLAIN = "plain"

    id: Any
    name = models.CharField(max_length=150, unique=True)
    kind = models.CharField(max_length=16, choices=Kind.choices)  # set at creation, never changed
    owner_id = models.CharField(max_length=LENGTH, blank=True)  # of the User or Organisation row; "" for plain ones
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="+")  # parent of its repositories
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class RepositoryManager(models.Manager["Repository"]):
    """What is there. Deleted repositories and the rooms for deleted manifests are rows too, for the collector's sake."""

    def get_queryset(self) -> models.QuerySet[Repository]:
        return super().get_queryset().filter(deleted_at=None, trash_of=None)


class Repository(Versioned):
    """A named set of manifests, tags and blobs; a leaf of the resource tree, so that grants may name it alone.

    A deleted one stays for the undo window under a name that nobody can ask for ("~<id>"), with everything that it holds: to the
    collector its references are references. So do deleted manifests: they move to a repository of their own (`trash_of`).
    """

    class Visibility(models.TextChoices):
        PUBLIC = "public"
        PRIVATE = "private"

    namespace = models.ForeignKey(Namespace, on_delete=models.PROTECT, related_name="repositories")
    name = models.CharField(max_length=255)  # without the namespace; may hold '/'
    full_name = models.CharField(max_length=255, unique=True)
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="repositories")  # its own leaf
    visibility = models.CharField(max_length=8, choices=Visibility.choices, default=Visibility.PRIVATE)
    description = models.CharField(max_length=200, blank=True)  # one line, plain text
    readme = models.TextField(blank=True)  # Markdown; sanitised where it is shown
    mirrored_from = models.CharField(
        max_length=600, blank=True
    )  # who fills it, "host/name"; by registry.actions.mirrors, proxies
    sparse_indexes = models.BooleanField(default=False)  # may an index name children that are not here?
    pulls = models.BigIntegerField(default=0)  # written in batches by registry.actions.pulls alone
    pushes = models.BigIntegerField(default=0)  # of manifests, by registry.actions.manifests alone
    pushed_at = models.DateTimeField(null=True, blank=True)  # last manifest push
    immutable_tags = models.BooleanField(default=False)  # no tag of it is overwritten or deleted
    tag_limit = models.PositiveIntegerField(default=0)  # tag n + 1 evicts the oldest; 0 = none
    deleted_at = models.DateTimeField(null=True, blank=True, db_index=True)  # by registry.actions.repositories alone
    deleted_by = models.CharField(max_length=150, blank=True)
    former_name = models.CharField(max_length=255, blank=True)  # of a deleted one: its full name
    former_grants = models.JSONField(default=list, blank=True)  # of a deleted one, by registry.actions.folders alone
    # by registry.actions.trash alone: this row holds the deleted manifests of that one
    trash_of = models.OneToOneField("self", on_delete=models.CASCADE, null=True, blank=True, related_name="trash_room")

    objects = RepositoryManager()
    everything = models.Manager()

    class Meta:
        ordering = ["full_name"]
        indexes = [
            models.Index(fields=["-pulls", "id"], name="registry_most_pulled"),
            models.Index(fields=["-pushed_at", "id"], name="registry_last_pushed"),
        ]
        verbose_name_plural = "repositories"

    def __str__(self) -> str:
        return self.full_name

    @property
    def is_public(self) -> bool:
        return self.visibility == self.Visibility.PUBLIC
