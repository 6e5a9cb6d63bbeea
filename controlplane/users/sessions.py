"""Browser sessions: a row each, so that they can be listed, limited and ended. Renewal follows UCP's rule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import logout
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from controlplane.users.models import User, UserSession

_COALESCE = timedelta(seconds=60)


def opened(request: HttpRequest, user: User, address: str) -> UserSession:
    """Notes the signed-in session of `request`; one over the limit ends the least recently used."""
    now = timezone.now()
    request.session.set_expiry(settings.SESSION_LIFETIME)
    if request.session.session_key is None:
        request.session.save()
    row = UserSession.objects.create(
        user=user,
        session_key=request.session.session_key or "",
        address=address[:45],
        user_agent=request.headers.get("User-Agent", "")[:300],
        expires_at=now + timedelta(seconds=settings.SESSION_LIFETIME),
    )
    UserSession.objects.filter(user=user, expires_at__lt=now).delete()
    limit = settings.SESSION_LIMIT
    if limit > 0:
        surplus = UserSession.objects.filter(user=user).exclude(pk=row.pk).order_by("-last_used_at")[limit - 1 :]
        end(list(surplus))
    return row


def end(rows: list[UserSession]) -> int:
    """Ends the sessions: their cookies are worthless at the next request."""
    for row in rows:
        SessionStore(row.session_key).delete()
        row.delete()
    return len(rows)


def end_all(user: User, *, but: str | None = None) -> int:
    """Ends every session of `user`, sparing the session key `but`."""
    return end(list(UserSession.objects.filter(user=user).exclude(session_key=but or "")))


def expire() -> int:
    """Removes sessions past their end, with their data; returns how many. Run by a job."""
    rows = list(UserSession.objects.filter(expires_at__lt=timezone.now())[:1000])
    SessionStore.clear_expired()
    return end(rows)


class SessionMiddleware:
    """Ends requests' sessions whose row is gone, and extends those near their end."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if settings.SESSION_COOKIE_NAME in request.COOKIES:
            user: Any = request.user
            if user.is_authenticated:
                self._check(request, user)
        return self.get_response(request)

    @staticmethod
    def _check(request: HttpRequest, user: User) -> None:
        now = timezone.now()
        row = UserSession.objects.filter(session_key=request.session.session_key or "", user=user).first()
        if row is None or row.expires_at <= now:
            logout(request)
            return
        left = (row.expires_at - now).total_seconds()
        whole = (
            settings.SESSION_RENEWAL >= settings.SESSION_LIFETIME and settings.SESSION_LIFETIME - left > _COALESCE.total_seconds()
        )
        if left < settings.SESSION_RENEWAL and (whole or settings.SESSION_RENEWAL < settings.SESSION_LIFETIME):
            request.session.set_expiry(settings.SESSION_LIFETIME)
            row.expires_at = now + timedelta(seconds=settings.SESSION_LIFETIME)
            row.last_used_at = now
            row.save(update_fields=["expires_at", "last_used_at"])
        elif now - row.last_used_at > _COALESCE:
            UserSession.objects.filter(pk=row.pk).update(last_used_at=now)
