"""The page Robots: accounts of programs, their secrets shown once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.utils import timezone

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.api import access
from controlplane.console.pages import Page
from controlplane.events.models import Event
from registry.actions import robots
from registry.models import Robot
from registry.queries import activity
from registry.queries.robots import ACTIONS

PER_PAGE = 100
RECENT = 20
KEEP = "keep"
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
            "filters": urlencode({"q": text}) + "&" if text else "",
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
        row = visible_robot(self, self.request.POST.get("id", ""))
        self.require(row, operation=operation)
        return row


class RobotDetail(Page):
    """What a robot may do, to be changed, and what it did last."""

    operation = {"get": "Robot View", "post": "Robot Update"}
    template = "registry/robot.html"
    current = "robots"

    def context(self) -> dict[str, Any]:
        row = visible_robot(self, self.kwargs["pk"])
        self.require(row)
        did = Event.objects.filter(actor_id=row.pk, actor_kind="robot").order_by("-id")[:RECENT]
        return {
            "robot": row,
            "title": row.full_name,
            "rights": "\n".join(f"{right['repositories']}={','.join(right['actions'])}" for right in row.rights),
            "cidrs": "\n".join(row.cidrs),
            "lifetimes": LIFETIMES,
            "did": [(event, str(event.data.get("name", "")), activity.sentence(event)) for event in did],
            "may_update": self.may("Robot Update", row),
        }

    def act_save(self) -> None:
        row = visible_robot(self, self.kwargs["pk"])
        self.require(row, operation="Robot Update")
        data = self.request.POST
        changes: dict[str, Any] = {
            "description": data.get("description", "").strip(),
            "rights": [_right(line) for line in data.get("rights", "").split()],
            "cidrs": data.get("cidrs", "").replace(",", " ").split(),
        }
        days = data.get("days", KEEP)
        if days != KEEP:
            if days not in LIFETIMES:
                raise InvalidInput("choose one of the lifetimes offered")
            changes["expires_at"] = timezone.now() + timedelta(days=int(days)) if days else None
        robots.update_robot(self.actor, row, None, **changes)
        self.done("Saved; it holds from the next request on.")


def visible_robot(page: Page, pk: str) -> Robot:
    """Raises NotFound for what does not exist or is not to be seen by who asks."""
    row = access.visible(page.actor, Robot.objects.select_related("namespace", "collection")).filter(pk=pk).first()
    if row is None:
        raise NotFound("there is no such robot, or you may not see it")
    return row


def _right(line: str) -> dict[str, Any]:
    """ "team/*=pull,push" """
    glob, _, actions = line.partition("=")
    return {"repositories": glob, "actions": [action for action in actions.split(",") if action]}
