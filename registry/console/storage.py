"""The page Storage: how much is stored for whom, the jobs that look after it, and the switches of the whole registry."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse

from agent.protocol.errors import InvalidInput
from controlplane.console.pages import Page
from controlplane.console.templatetags.wharf import size
from controlplane.jobs import enqueue
from controlplane.jobs.declare import Kind, kinds
from controlplane.jobs.models import Job
from registry.actions.switches import switch
from registry.models import Usage, UsageSample
from registry.queries import switches

LARGEST = 10
SAMPLES = 2000
BYTES = frozenset({"size", "logical", "stored", "unlinked", "bytes"})  # of a job's result: shown as sizes
DRY = ("registry.gc",)  # first in the list; whatever else takes dry_run is found by its signature


class Storage(Page):
    operation = {"get": "Registry View", "post": "Registry Update"}
    template = "registry/storage.html"
    title = "Storage"
    current = "storage"

    def context(self) -> dict[str, Any]:
        self.require(operation="Registry View")
        rows = Usage.objects.all()
        namespaces = list(rows.filter(scope=Usage.Scope.NAMESPACE).order_by("-stored", "name"))
        whole = rows.filter(scope=Usage.Scope.REGISTRY).first()
        return {
            "whole": whole,
            "between": whole.stored - sum(row.unique for row in namespaces) if whole else 0,
            "saved": whole.logical - whole.stored if whole else 0,
            "sample": UsageSample.objects.order_by("-at").first(),
            "drawn": UsageSample.objects.count() > 1,
            "namespaces": namespaces[: LARGEST * 5],
            "largest": rows.filter(scope=Usage.Scope.REPOSITORY).order_by("-stored", "name")[:LARGEST],
            "kinds": [_state(kind) for kind in _registry_kinds()],
            "switches": [
                (name, name.replace("_", " ").capitalize(), text, switches.value(name))
                for name, (_, text) in switches.SWITCHES.items()
            ],
        }

    def act_run(self) -> str:
        name = self.request.POST.get("kind", "")
        kind = next((kind for kind in _registry_kinds() if kind.name == name), None)
        if kind is None:
            raise InvalidInput("there is no such job of the registry that may be run by hand")
        self.require(operation="Job Run")
        self.require(operation=kind.operation)
        payload = {"dry_run": True} if "dry" in self.request.POST and _takes_dry_run(kind) else {}
        job = enqueue(kind.name, payload, actor=self.actor)
        return reverse("job", args=[job.pk])

    def act_switch(self) -> None:
        self.require(operation="Registry Update")
        name = self.request.POST.get("name", "")
        on = self.request.POST.get("on") == "1"
        switch(self.actor, **{name: on})
        self.done(f"{name.replace('_', ' ').capitalize()} is {'on' if on else 'off'}.")


def _registry_kinds() -> list[Kind]:
    """What may be run by hand, whichever room declared it; the collector first."""
    found = [kind for kind in kinds().values() if kind.name.startswith("registry.") and kind.operation]
    return sorted(found, key=lambda kind: (kind.name not in DRY, kind.name))


def _takes_dry_run(kind: Kind) -> bool:
    try:
        kind.check_payload({"dry_run": True})
    except InvalidInput:
        return False
    return True


def _figure(key: str, value: Any) -> str:
    text = size(value) if key in BYTES and isinstance(value, int) else str(value)
    return f"{key.replace('_', ' ')} {text}"


def _state(kind: Kind) -> dict[str, Any]:
    jobs = Job.objects.filter(kind=kind.name)
    last = jobs.first()
    done = jobs.filter(state="done").exclude(result=None).first()
    return {
        "name": kind.name,
        "description": (kind.function.__doc__ or "").strip().partition("\n")[0].replace("`", ""),
        "dry": _takes_dry_run(kind),
        "last": last,
        "percent": min(100, last.done * 100 // last.total) if last and last.live and last.total else None,
        "result": ", ".join(_figure(key, value) for key, value in (done.result or {}).items()) if done else "",
    }


class StorageChart(Page):
    """Points of the chart on the overview and on Storage."""

    operation = "Registry View"

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.require()
        rows = list(UsageSample.objects.order_by("-at").values_list("at", "stored", "logical", "unlinked")[:SAMPLES])[::-1]
        return JsonResponse(
            {
                "at": [row[0].timestamp() for row in rows],
                "series": [
                    {"name": "stored", "values": [row[1] for row in rows]},
                    {"name": "logical", "values": [row[2] for row in rows]},
                    {"name": "unlinked", "values": [row[3] for row in rows]},
                ],
                "limit": None,
            }
        )
