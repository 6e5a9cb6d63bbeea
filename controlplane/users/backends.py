"""Django's authentication backend: a password against an active account, in the same time for names that do not exist."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.hashers import make_password
from django.http import HttpRequest

from controlplane.users.models import User


class PasswordBackend:
    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **other: Any
    ) -> User | None:
        if username is None or password is None:
            return None
        return check(username, password)

    def get_user(self, user_id: str) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first()


def check(username: str, password: str) -> User | None:
    """The active user with that name and password, else None. One argon2 computation whatever happens."""
    user = User.objects.filter(username=username.lower()).first()
    if user is None or not user.has_usable_password():
        make_password(password)
        return None
    return user if user.check_password(password) and user.is_active else None
