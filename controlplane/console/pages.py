"""The base of every console page: names its operation, asks for it, and explains every refusal to the person in front of it."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.views import View

from agent.protocol.errors import NotFound, WharfError
from controlplane.api import access
from controlplane.api.access import AUTHENTICATED, PUBLIC
from controlplane.api.actor import Actor, actor_of

__all__ = ["AUTHENTICATED", "PUBLIC", "Page"]


class Page(View):
    """One page. `operation` is a name, or a dict by lower-case method; the page itself calls `require` on the object it shows.

    A subclass gives `context()`; writes are methods `act_<name>` reached by POST with a field `act`, each one domain call, after
    which the browser is sent back to where `act_…` says (default: this page).
    """

    operation: ClassVar[str | dict[str, str]] = AUTHENTICATED
    template: ClassVar[str] = ""
    title: ClassVar[str] = ""
    current: ClassVar[str] = ""  # url name of the rail's entry that is lit

    request: HttpRequest

    @property
    def actor(self) -> Actor:
        return actor_of(self.request)

    def context(self) -> dict[str, Any]:
        return {}

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        public = self.operation == PUBLIC
        if not public and not request.user.is_authenticated:
            return HttpResponseRedirect(f"{reverse('login')}?{urlencode({'next': request.get_full_path()})}")
        try:
            return super().dispatch(request, *args, **kwargs)
        except WharfError as error:
            return self.refused(error)

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self.show()

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        act = getattr(self, f"act_{request.POST.get('act', '')}", None)
        if act is None:
            raise NotFound("this page does not know that act: reload it")
        try:
            target = act() or request.get_full_path()
        except WharfError as error:
            if error.status in (401, 404):
                raise
            messages.error(request, error.detail)
            target = request.get_full_path()
        return HttpResponseRedirect(target)

    def show(self, status: int = 200, **extra: Any) -> HttpResponse:
        context = {"title": self.title, "current": self.current, **self.context(), **extra}
        return render(self.request, self.template, context, status=status)

    def require(self, target: Any = None, *, operation: str | None = None) -> None:
        named = operation or self.operation
        access.require(self.actor, named if isinstance(named, str) else named[(self.request.method or "get").lower()], target)

    def may(self, operation: str, target: Any = None) -> bool:
        """Would it be allowed? Decides which acts a page offers; the act asks again."""
        return access.explain(self.actor, operation, target).allowed

    def redirect(self, target: str) -> HttpResponse:
        return HttpResponseRedirect(target)

    def done(self, text: str) -> None:
        """Tell the person, on the next page, what happened."""
        messages.success(self.request, text)

    def refused(self, error: WharfError) -> HttpResponse:
        """Say why and what would help."""
        return render(
            self.request,
            "console/refused.html",
            {"title": "Not found" if error.status == 404 else "Refused", "error": error, "current": self.current},
            status=error.status,
        )
