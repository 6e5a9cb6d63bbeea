"""Personal access tokens."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime

from django.db import IntegrityError, transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, Denied, InvalidInput
from controlplane.api.access import catalogue
from controlplane.api.actor import Actor
from controlplane.events import record
from controlplane.users.credentials import digest, new_secret, text_of
from controlplane.users.models import Token, User

MAX_SCOPES = 200


def create_token(
    actor: Actor,
    user: User,
    name: str,
    scopes: Iterable[str] | None = None,
    expires: datetime | None = None,
    *,
    cidrs: Iterable[str] = (),
) -> tuple[Token, str]:
    """(row, text): the text `wharf_<id>_<secret>` is never shown again.

    `scopes` are operation names or globs, None for all the owner's rights. A scoped token cannot make a wider one.
    Raises InvalidInput (scopes, networks, expiry in the past), Denied (wider than the caller's own token), Conflict (name taken).
    """
    wanted = None if scopes is None else _checked_scopes(scopes)
    if actor.scopes is not None and (wanted is None or not all(_within(scope, actor) for scope in wanted)):
        raise Denied("A token cannot make a token with wider scopes than its own.", scopes=sorted(actor.scopes))
    if not name.strip() or len(name) > 100:
        raise InvalidInput("A token needs a name of at most 100 characters, so that you know later what it was for.")
    if expires is not None and expires <= timezone.now():
        raise InvalidInput("The expiry lies in the past.")
    secret = new_secret()
    token = Token(
        user=user, name=name.strip(), secret_hash=digest(secret), scopes=wanted, cidrs=_checked_cidrs(cidrs), expires_at=expires
    )
    try:
        with transaction.atomic():
            token.save(force_insert=True)
            data = {"name": token.name, "user": user.username, "scopes": wanted, "cidrs": token.cidrs, "expires_at": expires}
            record("token.created", actor=actor, target=f"token/{token.pk}", data=data)
    except IntegrityError:
        raise Conflict(f"{user.username} has a token named {name.strip()}: revoke it or take another name.") from None
    return token, text_of(token.pk, secret)


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    wanted = sorted(set(scopes))
    if not wanted or len(wanted) > MAX_SCOPES:
        raise InvalidInput(f"Give 1 to {MAX_SCOPES} scopes, or none at all for every right of the owner.")
    probe = {scope: Actor("user", "", "", scopes=frozenset({scope})) for scope in wanted}
    names = [f"{resource.name} {verb}" for resource in catalogue().values() for verb in resource.operations]
    for scope, narrowed in probe.items():
        if not any(narrowed.in_scope(name) for name in names):
            raise InvalidInput(f"The scope {scope!r} matches no operation. GET /api/v1/operations lists them.")
    return wanted


def _within(scope: str, actor: Actor) -> bool:
    """Is every operation that `scope` lets through also let through by the actor's own scopes?"""
    probe = Actor("user", "", "", scopes=frozenset({scope}))
    names = (f"{resource.name} {verb}" for resource in catalogue().values() for verb in resource.operations)
    return all(actor.in_scope(name) for name in names if probe.in_scope(name))


def _checked_cidrs(cidrs: Iterable[str]) -> list[str]:
    try:
        return sorted({str(ipaddress.ip_network(text.strip(), strict=False)) for text in cidrs})
    except ValueError as error:
        raise InvalidInput(f"Not a network: {error}. Write 10.0.0.0/8 or 2001:db8::/32.") from None


def revoke_token(actor: Actor, token: Token) -> None:
    """The token is refused from now on. Revoking twice is one event."""
    with transaction.atomic():
        if Token.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
            record("token.revoked", actor=actor, target=f"token/{token.pk}", data={"name": token.name})
