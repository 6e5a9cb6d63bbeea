"""The page Robots: accounts of programs, their secrets shown once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.paginator import Paginator
from django.utils import timezone

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.api import access
from controlplane.console.pages import Page
from registry.actions import robots
from registry.models import Robot
from registry.queries.robots import ACTIONS

PER_PAGE = 100
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "a year", "": "no end"}
_DESCRIBED = {
    "pull": "pull images",
    "push": "push images and tags",
    "delete": "remove tags and images",
    "create": "make a repository by pushing, where pushes may",
}


class Robots(Page):
    operation = {"get": "Robot View", "post": "Robot Update"}
    template = "registry/robots.html"
    title = "Robots"
    current = "robots"

    def context(self) -> dict[str, Any]:
        rows = access.visible(self.actor, Robot.objects.select_related("namespace").order_by("full_name"))
        if text := self.request.GET.get("q", "").strip():
            rows = rows.filter(full_name__icontains=text)
        return {
            "page": Paginator(rows, PER_PAGE).get_page(self.request.GET.get("page")),
            "q": text,
            "filters": f"q={text}&" if text else "",
            "fresh": self.request.session.pop("fresh_robot", None),
            "lifetimes": LIFETIMES,
            "actions": [(action, _DESCRIBED[action]) for action in ACTIONS],
            "host": self.request.get_host(),
        }

    def act_create(self) -> None:
        data = self.request.POST
        days = data.get("days", "90")
        if days not in LIFETIMES:
            raise InvalidInput("choose one of the lifetimes offered")
        globs = [glob for glob in data.get("repositories", "").split() if glob]
        row, secret = robots.create_robot(
            self.actor,
            data.get("name", "").strip(),
            namespace=data.get("namespace", "").strip(),
            rights=[{"repositories": glob, "actions": data.getlist("actions")} for glob in globs],
            description=data.get("description", "").strip(),
            cidrs=data.get("cidrs", "").replace(",", " ").split(),
            expires_at=timezone.now() + timedelta(days=int(days)) if days else None,
        )
        self._show_once(row, secret)

    def act_rotate(self) -> None:
        row = self._chosen("Robot Update")
        self._show_once(row, robots.rotate_robot(self.actor, row))

    def act_disable(self) -> None:
        row = robots.update_robot(self.actor, self._chosen("Robot Update"), disabled=True)
        self.done(f"{row.full_name} is disabled: its secret and its tokens are refused from now on.")

    def act_enable(self) -> None:
        row = robots.update_robot(self.actor, self._chosen("Robot Update"), disabled=False)
        self.done(f"{row.full_name} may log in again.")

    def act_remove(self) -> None:
        row = self._chosen("Robot Delete")
        robots.delete_robot(self.actor, row)
        self.done(f"Robot {row.full_name} was removed.")

    def _show_once(self, row: Robot, secret: str) -> None:
        # Shown on the page that follows; the session forgets it with that page.
        self.request.session["fresh_robot"] = {"name": row.full_name, "secret": secret}

    def _chosen(self, operation: str) -> Robot:
        rows = access.visible(self.actor, Robot.objects.select_related("namespace", "collection"))
        row = rows.filter(pk=self.request.POST.get("id", "")).first()
        if row is None:
            raise NotFound("there is no such robot, or you may not see it")
        self.require(row, operation=operation)
        return row
