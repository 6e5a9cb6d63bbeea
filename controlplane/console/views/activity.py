"""Jobs and events."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.shortcuts import get_object_or_404

from controlplane.api import access
from controlplane.console.pages import Page
from controlplane.events.models import Event
from controlplane.jobs import actions
from controlplane.jobs.models import Job, JobState, LogChunk

PER_PAGE = 50
LOG_CHARACTERS = 256 << 10


class Jobs(Page):
    operation = "Job View"
    template = "console/jobs.html"
    title = "Jobs"
    current = "jobs"

    def context(self) -> dict[str, Any]:
        rows = access.visible(self.actor, Job.objects.order_by("-created_at"))
        chosen = self.request.GET.get("state", "")
        if chosen in JobState.values:
            rows = rows.filter(state=chosen)
        page = Paginator(rows, PER_PAGE).get_page(self.request.GET.get("page"))
        return {"page": page, "states": JobState.values, "chosen": chosen, "filters": f"state={chosen}&" if chosen else ""}


class JobDetail(Page):
    operation = {"get": "Job View", "post": "Job Cancel"}
    template = "console/job.html"
    current = "jobs"

    def _job(self) -> Job:
        return get_object_or_404(access.visible(self.actor, Job.objects.all()), pk=self.kwargs["pk"])

    def context(self) -> dict[str, Any]:
        job = self._job()
        chunks = LogChunk.objects.filter(job=job).order_by("seq").values_list("text", flat=True)
        text = "".join(chunks)[-LOG_CHARACTERS:]
        percent = min(100, job.done * 100 // job.total) if job.total else None
        return {"job": job, "title": job.kind, "log": text, "percent": percent, "may_cancel": self.may("Job Cancel", job)}

    def act_cancel(self) -> None:
        job = self._job()
        self.require(job, operation="Job Cancel")
        actions.cancel(self.actor, job)
        self.done("The job was asked to stop.")

    def act_retry(self) -> str:
        job = self._job()
        self.require(job, operation="Job Retry")
        fresh = actions.retry(self.actor, job)
        self.done("Queued again.")
        return self.request.path.replace(job.pk, fresh.pk)


class Events(Page):
    operation = "Event View"
    template = "console/events.html"
    title = "Events"
    current = "events"

    def context(self) -> dict[str, Any]:
        rows = access.visible(self.actor, Event.objects.order_by("-id"))
        query = self.request.GET
        for field in ("kind", "actor_name", "target"):
            if text := query.get(field, "").strip():
                rows = rows.filter(**{f"{field}__startswith": text})
        page = Paginator(rows, PER_PAGE).get_page(query.get("page"))
        kept = "".join(f"{field}={query[field]}&" for field in ("kind", "actor_name", "target") if query.get(field))
        return {
            "page": page,
            "query_kind": query.get("kind", ""),
            "query_actor": query.get("actor_name", ""),
            "filters": kept,
            "query_target": query.get("target", ""),
        }
