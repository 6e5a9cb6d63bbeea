"""Signing in and out."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.templatetags.static import static
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from agent.protocol.errors import WharfError
from controlplane.console.pages import AUTHENTICATED, PUBLIC, Page
from controlplane.users import actions


class Icon(Page):
    """For programs that ask for /favicon.ico without having read a page's <link>."""

    operation = PUBLIC

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(static("console/wharf.svg"))


class Login(Page):
    operation = PUBLIC
    template = "console/login.html"
    title = "Sign in"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.user.is_authenticated:
            return HttpResponseRedirect(self._next(request.GET.get("next", "")))
        return self.show(next=request.GET.get("next", ""))

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        username = request.POST.get("username", "").strip()
        wanted = request.POST.get("next", "")
        try:
            actions.login(request, username, request.POST.get("password", ""))
        except WharfError as error:
            return self.show(status=error.status, error=error.detail, username=username, next=wanted)
        return HttpResponseRedirect(self._next(wanted))

    def _next(self, wanted: str) -> str:
        """Only a path of our own: an open redirect would lend our name to others."""
        safe = wanted.startswith("/") and url_has_allowed_host_and_scheme(wanted, allowed_hosts=None)
        return wanted if safe else reverse("overview")


class Logout(Page):
    operation = AUTHENTICATED

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse("overview"))

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        actions.logout(request)
        return HttpResponseRedirect(reverse("login"))
