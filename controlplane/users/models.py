"""People and what they belong to."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Lower

from controlplane.api.ids import LENGTH, new_id
from controlplane.api.models import Versioned

USERNAME = RegexValidator(
    r"\A[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?\Z",
    "Use 1 to 100 lower-case letters, digits, dots, dashes or underscores, beginning and ending with a letter or digit.",
)
NAME = RegexValidator(
    r"\A[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?\Z",
    "Use 1 to 100 lower-case letters, digits, dots, dashes or underscores, beginning and ending with a letter or digit.",
)
EVERYONE = "everyone"


class UserManager(BaseUserManager["User"]):
    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(username=(username or "").lower())

    def active(self) -> models.QuerySet[User]:
        return self.filter(is_active=True)


class User(AbstractBaseUser):
    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)
    username = models.CharField(
        max_length=100, unique=True, validators=[USERNAME]
    )  # always lower case; never reused for another person
    full_name = models.CharField(max_length=200, blank=True)
    email = models.EmailField(blank=True)
    is_admin = models.BooleanField(default=False)  # written by administrators only
    is_active = models.BooleanField(default=True)  # written by administrators only; False ends sessions and stops tokens
    password_changed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    updated_at = models.DateTimeField(auto_now=True)

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = UserManager()

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(username=Lower("username")), name="users_username_lower")]

    @property
    def etag(self) -> str:
        return f'"v{self.version}"'


class Organisation(Versioned):
    """A set of users with owners. The one named "everyone" has every active user as a member without a row."""

    name = models.CharField(max_length=100, unique=True, validators=[NAME])
    full_name = models.CharField(max_length=200, blank=True)
    everyone = models.BooleanField(default=False, editable=False)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    id: Any
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    organisation = models.ForeignKey(Organisation, on_delete=models.CASCADE, related_name="memberships")
    is_owner = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "organisation"], name="users_membership_once")]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.organisation_id}"


class Team(Versioned):
    """A set of members of one organisation; the usual subject of grants."""

    organisation = models.ForeignKey(Organisation, on_delete=models.CASCADE, related_name="teams")
    name = models.CharField(max_length=100, validators=[NAME])
    description = models.CharField(max_length=500, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organisation", "name"], name="users_team_name")]

    def __str__(self) -> str:
        return self.name


class TeamMembership(models.Model):
    """Only members of the team's organisation can be in it: actions keep that."""

    id: Any
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="team_memberships")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="users_team_membership_once")]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.team_id}"


class Token(models.Model):
    """A personal access token. The secret is shown once; only its SHA-256 is here (256 random bits need no slow hash)."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    secret_hash = models.CharField(max_length=64)
    scopes = models.JSONField(null=True)  # operation names or globs; NULL = all that the owner may do
    cidrs = models.JSONField(default=list)  # source networks; empty = any
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)  # written at most once a minute
    last_used_address = models.CharField(max_length=45, blank=True)
    revoked_at = models.DateTimeField(null=True)  # set once; a revoked row stays so that events can name it
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "name"], condition=models.Q(revoked_at=None), name="users_token_name"),
        ]

    def __str__(self) -> str:
        return self.name


class UserSession(models.Model):
    """A signed-in browser: lists, limits and ends sessions; the session's data stays in Django's own table."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sessions")
    session_key = models.CharField(max_length=40, unique=True)
    address = models.CharField(max_length=45, blank=True)
    user_agent = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"session of {self.user_id}"
