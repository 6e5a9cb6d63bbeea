"""The tree, the roles, the grants."""

from __future__ import annotations

from typing import Any

from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Lower

from controlplane.api.models import Versioned

SEGMENT = RegexValidator(
    r"\A[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,98}[A-Za-z0-9._-])?\Z",
    "Use 1 to 100 letters, digits, dots, dashes, underscores or blanks, beginning with a letter or digit.",
)


class Collection(Versioned):
    """A folder of the one resource tree. `path` is materialised and ends in a slash: "/Shared/Private/alice/"."""

    name = models.CharField(max_length=100, blank=True, validators=[SEGMENT])  # "" for the root only
    parent = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="children")
    path = models.CharField(max_length=1024, unique=True)
    system = models.BooleanField(default=False, editable=False)  # cannot be renamed or removed
    grants_seeded = models.BooleanField(default=False, editable=False)  # the built-in grant was made: its removal is respected

    class Meta:
        constraints = [
            models.UniqueConstraint("parent", Lower("name"), name="rbac_sibling_names"),
            models.UniqueConstraint(Lower("path"), name="rbac_path_ignoring_case"),
        ]

    def __str__(self) -> str:
        return self.path


class Role(Versioned):
    """A named set of operations, edited in place: each edit keeps the old set as a RoleVersion."""

    name = models.CharField(max_length=100, unique=True, validators=[SEGMENT])
    description = models.CharField(max_length=500, blank=True)
    system = models.BooleanField(default=False, editable=False)  # rewritten from code at each migrate
    operations = models.JSONField(default=dict)  # {"Service": {"Create": ["Host Bind Mounts"]}}: type, verb, allowed gates

    def __str__(self) -> str:
        return self.name


class RoleVersion(models.Model):
    """What a role allowed before an edit."""

    id: Any
    role = models.ForeignKey(Role, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    operations = models.JSONField()
    replaced_at = models.DateTimeField(auto_now_add=True)
    replaced_by = models.CharField(max_length=150)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["role", "number"], name="rbac_role_version_once")]

    def __str__(self) -> str:
        return f"{self.role_id} v{self.number}"


class Grant(Versioned):
    """Exactly one subject, one role, one collection. Grants only add: the rights are the union over all ancestors."""

    class Subject(models.TextChoices):
        USER = "user"
        TEAM = "team"
        ORGANISATION = "org"

    subject_kind = models.CharField(max_length=8, choices=Subject.choices)
    subject_id = models.CharField(max_length=25)
    role = models.ForeignKey(Role, on_delete=models.PROTECT, related_name="grants")  # a role in use cannot be removed
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="grants")
    system = models.BooleanField(default=False, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["subject_kind", "subject_id", "role", "collection"], name="rbac_grant_once"),
        ]
        indexes = [models.Index(fields=["subject_kind", "subject_id"], name="rbac_grant_subject")]

    def __str__(self) -> str:
        return f"{self.subject_kind} {self.subject_id}"
