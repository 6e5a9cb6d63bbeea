"""Pages of services."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from agent.protocol import codec
from agent.protocol.codec import InvalidSpec
from agent.protocol.errors import InvalidInput, NotFound, WharfError
from agent.protocol.spec import ServiceSpec
from controlplane.api import access, parsers
from controlplane.console.pages import AUTHENTICATED, Page
from nodes import actions
from nodes.console import forms
from nodes.console.words import service_state
from nodes.models import Container, Service, Task
from nodes.queries import task_counts

PER_PAGE = 100
HISTORY = 10


def visible_service(page: Page, name: str) -> Service:
    rows = access.visible(page.actor, Service.objects.select_related("collection"))
    service = rows.filter(name__iexact=name).order_by("removed_at").first()
    if service is None:
        raise NotFound("There is no such service, or you may not see it.")
    return service


class Services(Page):
    operation = "Service View"
    template = "nodes/services.html"
    title = "Services"
    current = "services"

    def context(self) -> dict[str, Any]:
        rows = access.visible(self.actor, Service.objects.select_related("collection").order_by("name"))
        if text := self.request.GET.get("q", "").strip():
            rows = rows.filter(name__icontains=text)
        page = Paginator(rows, PER_PAGE).get_page(self.request.GET.get("page"))
        counts = task_counts(page)
        for service in page:
            service.counts = counts.get(service.pk, {})  # type: ignore[attr-defined]  # for the template, beside the row
            service.word = service_state(service, counts.get(service.pk, {}))  # type: ignore[attr-defined]  # for the template, beside the row
        return {"page": page, "q": text}


class ServicePage(Page):
    """Base of a service's tabs."""

    operation: ClassVar[str | dict[str, str]] = {"get": "Service View", "post": "Service Update"}
    current = "services"
    tab = ""

    def service(self) -> Service:
        return visible_service(self, self.kwargs["name"])

    def context(self) -> dict[str, Any]:
        service = self.service()
        counts = task_counts([service]).get(service.pk, {})
        return {
            "service": service,
            "wanted": service.wanted,
            "title": service.name,
            "tab": self.tab,
            "counts": counts,
            "word": service_state(service, counts),
            "may_update": self.may("Service Update", service),
            "may_delete": self.may("Service Delete", service),
            "may_logs": self.may("Service Logs", service),
        }


class ServiceDetail(ServicePage):
    template = "nodes/service.html"
    tab = "summary"

    def context(self) -> dict[str, Any]:
        context = super().context()
        service = context["service"]
        rows = Task.objects.filter(service=service).select_related("node").order_by("slot", "-created_at")
        services = access.visible(self.actor, Service.objects.all(), "Service View Tasks")
        tasks = list(rows.filter(service__in=services))
        containers = {row.task_id: row for row in Container.objects.filter(service=service)}
        for task in tasks:
            task.container = containers.get(task.pk)  # type: ignore[attr-defined]  # for the template, beside the row
        return {
            **context,
            "tasks": [task for task in tasks if task.live],
            "past": [task for task in tasks if not task.live][:HISTORY],
            "host": self.request.get_host().rpartition(":")[0] or self.request.get_host(),
        }

    def act_scale(self) -> None:
        service = self.service()
        self.require(service, operation="Service Update")
        text = self.request.POST.get("replicas", "")
        if not text.isdigit():
            raise InvalidInput("replicas: a whole number is needed")
        actions.scale(self.actor, service, int(text))
        self.done(f"{service.name} wants {text} replicas now.")

    def act_rollback(self) -> None:
        service = self.service()
        self.require(service, operation="Service Update")
        actions.roll_back(self.actor, service)
        self.done(f"{service.name} goes back to its previous spec.")

    def act_remove(self) -> str:
        service = self.service()
        self.require(service, operation="Service Delete")
        actions.remove_service(self.actor, service)
        self.done(f"{service.name} is being removed; its images and volumes stay.")
        return reverse("services")


class ServiceLogs(ServicePage):
    operation = "Service Logs"
    template = "nodes/service_logs.html"
    tab = "logs"

    def context(self) -> dict[str, Any]:
        context = super().context()
        self.require(context["service"])
        return context


class ServiceSpecTab(ServicePage):
    operation = "Service View"
    template = "nodes/service_spec.html"
    tab = "spec"

    def context(self) -> dict[str, Any]:
        context = super().context()
        return {**context, "spec": json.dumps(context["service"].spec, indent=2, ensure_ascii=False)}


class ServiceForm(Page):
    """Base of create and edit: the guided form and the raw spec, whichever was sent."""

    template = "nodes/service_form.html"
    current = "services"

    def submitted(self, base: dict[str, Any] | None) -> ServiceSpec:
        data = self.request.POST
        if data.get("form") != "raw":
            return forms.spec_of(data.dict(), base)
        try:
            raw = parsers.parse(data.get("raw", "").encode())
        except InvalidInput as error:
            raise InvalidSpec(f"the spec cannot be read: {error.detail}", field="raw") from None
        return codec.decode(ServiceSpec, raw)

    def shown_again(self, error: WharfError) -> HttpResponse:
        """The form with what was typed and what is wrong with it."""
        raw = self.request.POST.get("form") == "raw"
        return self.show(
            status=422 if error.status in (400, 404) else error.status,  # 404: the image, not the page,
            error=error.detail,
            error_field="raw" if raw else forms.field_of(error),
            **({"raw": self.request.POST.get("raw", "")} if raw else {"values": self.request.POST}),
        )


class ServiceCreate(ServiceForm):
    operation = AUTHENTICATED  # which collection it goes to, and so which right is asked, stands in the spec
    title = "New service"

    def context(self) -> dict[str, Any]:
        return {
            "values": forms.initial(None),
            "raw": json.dumps({"name": "", "container": {"image": ""}, "replicas": 1}, indent=2),
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            service = actions.create_service(self.actor, self.submitted(None))
        except WharfError as error:
            return self.shown_again(error)
        self.done(f"Service {service.name} was created.")
        return self.redirect(reverse("service", args=[service.name]))


class ServiceEdit(ServiceForm):
    operation = "Service Update"

    def context(self) -> dict[str, Any]:
        service = visible_service(self, self.kwargs["name"])
        self.require(service)
        return {
            "service": service,
            "title": f"Edit {service.name}",
            "values": forms.initial(service.wanted),
            "raw": json.dumps(service.spec, indent=2, ensure_ascii=False),
        }

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        service = visible_service(self, self.kwargs["name"])
        try:
            actions.update_service(self.actor, service, self.submitted(service.spec), expected=self._expected())
        except WharfError as error:
            return self.shown_again(error)
        self.done(f"Service {service.name} is being updated.")
        return self.redirect(reverse("service", args=[service.name]))

    def _expected(self) -> int | None:
        text = self.request.POST.get("version", "")
        return int(text) if text.isdigit() else None
