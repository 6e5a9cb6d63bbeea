"""Accounts: made, changed, disabled, removed."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib.auth.hashers import make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, InvalidInput, Unauthenticated
from controlplane.api import access, versions
from controlplane.api.actor import SYSTEM, Actor
from controlplane.events import record
from controlplane.users import sessions
from controlplane.users.models import User

UPDATABLE = frozenset({"full_name", "email", "is_admin", "is_active"})


def create_user(
    actor: Actor,
    username: str,
    password: str | None = None,
    *,
    full_name: str = "",
    email: str = "",
    is_admin: bool = False,
) -> User:
    """A new account with its private collection. No `password`: nobody can sign in with one until it is set.

    Raises InvalidInput (name, password) or Conflict (name taken).
    """
    user = User(username=username.lower(), full_name=full_name, email=email, is_admin=is_admin)
    if password is None:
        user.set_unusable_password()
    else:
        _check_password(password, user)
        user.set_password(password)  # hashed before the transaction: SQLite's write lock must not wait for argon2
        user.password_changed_at = timezone.now()
    _clean(user)
    try:
        with transaction.atomic():
            user.save(force_insert=True)
            access.subject_created("user", user)
            record(
                "user.created", actor=actor, target=f"user/{user.pk}", data={"username": user.username, "is_admin": user.is_admin}
            )
    except IntegrityError:
        raise Conflict(f"The name {user.username} is taken.") from None
    return user


def _clean(user: User) -> None:
    try:
        user.clean_fields(exclude={"id", "password", "password_changed_at", "last_login"})
    except ValidationError as error:
        problems = [{"field": name, "code": "invalid", "detail": " ".join(texts)} for name, texts in error.message_dict.items()]
        raise InvalidInput("Some fields cannot be accepted; see errors.", errors=problems) from None


def _check_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        problem = {"field": "password", "code": "weak", "detail": " ".join(error.messages)}
        raise InvalidInput(f"The password cannot be accepted: {' '.join(error.messages)}", errors=[problem]) from None


def update_user(actor: Actor, user: User, changes: dict[str, Any], *, expected: int | None = None) -> User:
    """Changes full_name, email, is_admin, is_active. Disabling ends all sessions. The last active administrator stays one."""
    if unknown := set(changes) - UPDATABLE:
        raise InvalidInput(f"Cannot be changed: {', '.join(sorted(unknown))}.")
    for name, value in changes.items():
        setattr(user, name, value)
    _clean(user)
    with transaction.atomic():
        versions.write(user, expected, **changes)
        _keep_an_admin()
        if changes.get("is_active") is False:
            sessions.end_all(user)
        record("user.updated", actor=actor, target=f"user/{user.pk}", data={"changes": changes})
    return user


def _keep_an_admin() -> None:
    """Raises Conflict inside the transaction that would leave the cluster without an active administrator."""
    # the lock makes two administrators who disable each other at once take turns
    if not User.objects.select_for_update().filter(is_admin=True, is_active=True).exists():
        raise Conflict("This would leave no active administrator: make another one first.")


def set_password(
    actor: Actor,
    user: User,
    password: str,
    *,
    current: str | None = None,
    session_key: str | None = None,
) -> User:
    """A new password; ends the user's other sessions. `current` is what a user who changes the own password must know.

    Raises Unauthenticated for a wrong `current`, InvalidInput for a weak password.
    """
    if actor.id == user.pk and not user.check_password(current or ""):
        raise Unauthenticated("The current password is wrong.")
    _check_password(password, user)
    encoded = make_password(password)
    with transaction.atomic():
        versions.write(user, None, password=encoded, password_changed_at=timezone.now())
        sessions.end_all(user, but=session_key)
        record("user.password_changed", actor=actor, target=f"user/{user.pk}")
    return user


def delete_user(actor: Actor, user: User, *, expected: int | None = None) -> None:
    """Removes the account, its tokens, sessions, memberships and grants. Its private collection goes when it is empty."""
    versions.check(user, expected)
    with transaction.atomic():
        key, name = user.pk, user.username
        sessions.end_all(user)
        access.subject_removed("user", key)
        user.delete()
        if actor is not SYSTEM or User.objects.exists():
            _keep_an_admin()
        record("user.deleted", actor=actor, target=f"user/{key}", data={"username": name})


def ensure_admin(username: str = "admin") -> tuple[User, str | None]:
    """An administrator for the first start: (user, password), the password only when the account was just made.

    Does nothing when any administrator exists.
    """
    existing = User.objects.filter(is_admin=True).order_by("created_at").first()
    if existing is not None:
        return existing, None
    password = secrets.token_urlsafe(15)
    return create_user(SYSTEM, username, password, full_name="Administrator", is_admin=True), password
