"""Users and access tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django.core.paginator import Paginator
from django.utils import timezone

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.api import access
from controlplane.console.pages import AUTHENTICATED, Page
from controlplane.users import actions
from controlplane.users.models import Token, User

PER_PAGE = 50
LIFETIMES = {"1": "1 day", "30": "30 days", "90": "90 days", "365": "1 year", "": "no expiry"}


class Users(Page):
    operation = "User View"
    template = "console/users.html"
    title = "Users"
    current = "users"

    def context(self) -> dict[str, Any]:
        text = self.request.GET.get("q", "").strip()
        rows = access.visible(self.actor, User.objects.order_by("username"))
        if text:
            rows = rows.filter(username__icontains=text)
        page = Paginator(rows, PER_PAGE).get_page(self.request.GET.get("page"))
        return {"page": page, "q": text, "may_create": self.may("User Create")}

    def act_create(self) -> None:
        self.require(operation="User Create")
        data = self.request.POST
        user = actions.create_user(
            self.actor,
            username=data.get("username", ""),
            password=data.get("password", ""),
            full_name=data.get("full_name", ""),
            email=data.get("email", ""),
            is_admin=data.get("is_admin") == "on",
        )
        self.done(f"User {user.username} can sign in now.")

    def act_toggle(self) -> None:
        user = access.visible(self.actor, User.objects.filter(username=self.request.POST.get("username", ""))).first()
        if user is None:
            raise NotFound("there is no such user")
        access.require(self.actor, "User Update", user)
        actions.update_user(self.actor, user, {"is_active": not user.is_active})
        self.done(f"User {user.username} is {'active again' if not user.is_active else 'disabled; open sessions have ended'}.")


class Tokens(Page):
    operation = AUTHENTICATED
    template = "console/tokens.html"
    title = "Access tokens"
    current = "tokens"

    @property
    def user(self) -> User:
        return cast(User, self.request.user)  # `dispatch` let nobody in who is not signed in

    def context(self) -> dict[str, Any]:
        rows = Token.objects.filter(user=self.user, revoked_at=None).order_by("-created_at")
        fresh = self.request.session.pop("fresh_token", None)
        return {"tokens": rows, "fresh": fresh, "lifetimes": LIFETIMES, "host": self.request.get_host()}

    def act_create(self) -> None:
        data = self.request.POST
        days = data.get("days", "90")
        if days not in LIFETIMES:
            raise InvalidInput("choose one of the lifetimes offered")
        scopes = data.get("scopes", "").replace(",", "\n").split("\n")
        _, text = actions.create_token(
            self.actor,
            self.user,
            data.get("name", "").strip(),
            [scope.strip() for scope in scopes if scope.strip()] or None,
            timezone.now() + timedelta(days=int(days)) if days else None,
        )
        # Shown once, on the page that follows; the session forgets it with that page.
        self.request.session["fresh_token"] = text

    def act_revoke(self) -> None:
        token = Token.objects.filter(user=self.user, pk=self.request.POST.get("id", "")).first()
        if token is None:
            raise NotFound("there is no such token of yours")
        actions.revoke_token(self.actor, token)
        self.done(f"Token {token.name} is revoked.")
