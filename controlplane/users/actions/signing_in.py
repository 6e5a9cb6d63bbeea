"""Signing in and out of the console."""

from __future__ import annotations

from django.contrib import auth
from django.db import transaction
from django.http import HttpRequest

from agent.protocol.errors import Throttled, Unauthenticated
from controlplane.api.actor import Actor, actor_of, actor_of_user, address_of
from controlplane.events import record
from controlplane.users import sessions
from controlplane.users.credentials import check_password
from controlplane.users.models import User, UserSession


def verify(username: str, password: str, *, address: str, request: HttpRequest | None = None) -> User:
    """The user with that password. Raises Unauthenticated or Throttled; either way the attempt is an event."""
    stranger = Actor("anonymous", "", username.strip().lower()[:100], address=address)
    try:
        user = check_password(username, password, address=address, request=request)
    except Throttled:
        _record("login.locked_out", stranger, address)
        raise
    if user is None:
        _record("login.failed", stranger, address)
        raise Unauthenticated("The name or the password is wrong.")
    return user


def _record(kind: str, actor: Actor, address: str) -> None:
    with transaction.atomic():
        record(kind, actor=actor, target="session", data={"address": address})


def login(request: HttpRequest, username: str, password: str) -> Actor:
    """Signs the browser of `request` in under a new session id.

    Raises Unauthenticated ("The name or the password is wrong.") or Throttled (locked out for this account and address).
    """
    address = address_of(request)
    user = verify(username, password, address=address, request=request)
    actor = actor_of_user(user, address=address)
    with transaction.atomic():
        auth.login(request, user, backend="controlplane.users.backends.PasswordBackend")
        sessions.opened(request, user, address)
        record("session.started", actor=actor, target=f"user/{user.pk}", data={"address": address})
    return actor


def logout(request: HttpRequest) -> None:
    """Ends the session of `request`; nothing happens when there is none."""
    actor = actor_of(request)
    with transaction.atomic():
        rows = list(UserSession.objects.filter(session_key=request.session.session_key or ""))
        if rows:
            record("session.ended", actor=actor, target=f"user/{actor.id}")
        sessions.end(rows)
        auth.logout(request)


def end_session(actor: Actor, row: UserSession) -> None:
    """Ends another browser's session."""
    with transaction.atomic():
        record("session.ended", actor=actor, target=f"user/{row.user_id}", data={"session": row.pk})
        sessions.end([row])
