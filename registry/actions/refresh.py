"""Refresh tokens: what `docker login` keeps instead of the password."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from controlplane import events
from controlplane.api.actor import Actor, actor_of_user
from controlplane.users.models import User
from registry.limits import limit
from registry.models import RefreshToken

_PREFIX = "wharfr"


def create(actor: Actor, client: str) -> str:
    """A new refresh token for a signed-in user, shown once. A personal token's scopes go with it."""
    secret = secrets.token_urlsafe(32)
    with transaction.atomic():
        RefreshToken.objects.filter(expires_at__lt=timezone.now()).delete()
        row = RefreshToken.objects.create(
            user_id=actor.id,
            secret_hash=_hash(secret),
            scopes=None if actor.scopes is None else sorted(actor.scopes),
            client=client[:100],
            expires_at=timezone.now() + timedelta(seconds=limit("REFRESH_TTL")),
        )
        events.record(
            "refresh_token.created", actor=actor, target=f"user/{actor.id}", data={"id": row.pk, "client": client[:100]}
        )
    return f"{_PREFIX}_{row.pk}_{secret}"


def actor_of(text: str, address: str) -> Actor | None:
    """The user behind a refresh token; None when it is unknown, expired, or its user is no longer active."""
    prefix, _, rest = text.partition("_")
    identifier, _, secret = rest.partition("_")
    if prefix != _PREFIX or not secret:
        return None
    row = RefreshToken.objects.filter(pk=identifier, expires_at__gt=timezone.now()).first()
    if row is None or not hmac.compare_digest(row.secret_hash, _hash(secret)):
        return None
    user = User.objects.filter(pk=row.user_id, is_active=True).first()
    if user is None or (user.password_changed_at is not None and user.password_changed_at > row.created_at):
        return None
    scopes = None if row.scopes is None else frozenset(row.scopes)
    return actor_of_user(user, address=address, scopes=scopes)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
