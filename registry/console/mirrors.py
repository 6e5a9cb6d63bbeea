"""The tab Mirrors."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.jobs.models import Job, JobState
from registry.actions import mirrors
from registry.console.tabs import RepositoryPage
from registry.models import Mirror


class Mirrors(RepositoryPage):
    operation = "Repository Policy"
    template = "registry/mirrors.html"
    tab = "mirrors"

    def tab_context(self) -> dict[str, Any]:
        rows = list(Mirror.objects.filter(repository=self.repository).prefetch_related("tags"))
        running = set(
            Job.objects.filter(pk__in=[row.job_id for row in rows], state=JobState.RUNNING).values_list("pk", flat=True)
        )
        return {"mirrors": [{"row": row, "state": _state(row, row.job_id in running)} for row in rows]}

    def _mirror(self) -> Mirror:
        rows = Mirror.objects.select_related("repository__collection", "repository__namespace")
        row = rows.filter(repository=self.repository, pk=self.request.POST.get("mirror", "")).first()
        if row is None:
            raise NotFound("There is no such mirror in this repository any more.")
        return row

    def act_add(self) -> None:
        data = self.request.POST
        speed = data.get("speed", "").strip() or "0"
        if not speed.isdecimal():
            raise InvalidInput("the speed is a whole number of kB/s")
        pattern = data.get("tags", "").strip()
        place: dict[str, Any] = {
            **{name: data.get(name, "").strip() for name in ("url", "remote_name", "direction", "username", "tls_ca")},
            "secret": data.get("secret", ""),
            "tls_verify": "tls_skip" not in data,
        }
        mirrors.try_connection(self.actor, **place)
        row = mirrors.create_mirror(
            self.actor,
            repository=self.repository.full_name,
            **place,
            rules=[{"field": "tag", "operator": "matches", "values": [pattern]}] if pattern else [],
            cron=data.get("cron", "").strip(),
            speed=int(speed),
            deletions="deletions" in data,
        )
        mirrors.run_now(self.actor, row)
        self.done("The other registry answers. The first run is on its way.")

    def act_run(self) -> str:
        return reverse("job", args=[mirrors.run_now(self.actor, self._mirror()).pk])

    def act_switch(self) -> None:
        row = self._mirror()
        row = mirrors.update_mirror(self.actor, row, None, enabled=not row.enabled)
        self.done(f"The mirror is {'on' if row.enabled else 'off'}.")

    def act_remove(self) -> None:
        mirrors.delete_mirror(self.actor, self._mirror())
        self.done("The mirror is removed; what was mirrored stays on both sides.")


def _state(row: Mirror, running: bool) -> str:
    if running:
        return "updating"
    if not row.enabled:
        return "stopped"
    if row.error:
        return "failed"
    return "done" if row.ran_at else "created"
