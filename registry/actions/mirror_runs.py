"""Runs of mirrors: which tags, in which order, what became of each. One at a time for each mirror.

A run is incremental by what is there (blobs and manifests on either side, asked digest by digest) and by what earlier runs noted
of each tag (MirroredTag). One that is killed is run again by its job and finds most of it done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import Unavailable, WharfError
from controlplane import events
from controlplane.api.actor import SYSTEM, Actor, actor_of_user
from controlplane.events.models import Event
from controlplane.jobs.models import Job, JobState
from controlplane.users.models import User
from registry.actions import manifests
from registry.actions.copying import Moved, Pull, Push, local_graph
from registry.actions.mirrors import ask, next_due, remote_of
from registry.actions.reactions import reaction
from registry.errors import ImageInUse, ManifestUnknown, TagImmutable
from registry.models import Mirror, MirroredTag, Tag
from registry.remote.client import RegistryClient
from registry.remote.errors import EgressRefused, RemoteAway, RemoteBroken, RemoteBusy, RemoteRefused, RemoteUnknown
from registry.remote.pace import Pace, Wait
from registry.rules import Candidate, Rule, check_rules, judge
from registry.storage.store import StoreFull

BUSY_SECONDS = 15.0  # until a run that met another one looks again
FAILURES = 20  # tags that may fail before a run gives up


class MirrorFailed(Unavailable):
    code = "mirror_failed"


@dataclass
class Result:
    """`failed` maps tags to why."""

    looked_at: int = 0
    copied: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    moved: Moved = field(default_factory=Moved)

    def as_dict(self) -> dict[str, Any]:
        return {
            "looked_at": self.looked_at,
            "copied": len(self.copied),
            "deleted": len(self.deleted),
            "failed": dict(list(self.failed.items())[:FAILURES]),
            **self.moved.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Control:
    """What a job lends to a run: each may raise to end it."""

    job_id: str
    log: Callable[[str], None]
    wait: Wait
    progress: Callable[[int, int, str], None]


@reaction("mirrors", "tag.", "manifest.pushed", "manifest.deleted")
def follow(event: Event) -> None:
    """After a push or a delete here: the push mirrors of that repository that want to hear of it."""
    name = str(event.data.get("name", ""))
    wanted = Mirror.objects.filter(repository__full_name=name, direction=Mirror.Direction.PUSH, enabled=True, on_event=True)
    if event.kind in ("tag.pulled", "tag.promoted"):
        return  # changed nothing here
    for row in wanted:
        ask(row, SYSTEM, quick=True)


def start_due() -> int:
    """Ask for the runs whose schedule is due; returns how many."""
    now = timezone.now()
    count = 0
    for row in Mirror.objects.filter(enabled=True, next_due__lte=now, repository__deleted_at=None).exclude(cron=""):
        with transaction.atomic():
            # The old value in the condition: of two that see one tick, one moves it on.
            if Mirror.objects.filter(pk=row.pk, next_due=row.next_due).update(next_due=next_due(row.cron)):
                ask(row, SYSTEM, quick=False)
                count += 1
    return count


def run(mirror_id: str, control: Control, *, quick: bool) -> dict[str, Any]:
    """One run. Raises MirrorFailed when another attempt may help, and what ends the job."""
    row = _take(mirror_id, control.job_id)
    if row is None:
        return {"skipped": "the mirror is removed or switched off"}
    if row.job_id != control.job_id:
        with transaction.atomic():
            ask(row, SYSTEM, quick=quick, after=timezone.now() + timedelta(seconds=BUSY_SECONDS))
        return {"skipped": f"the run {row.job_id} is not over; asked for another look"}
    result = Result()
    try:
        with RegistryClient(remote_of(row), pace=Pace(row.speed, control.wait), wait=control.wait) as client:
            _RUNS[row.direction](row, client, control, result, quick=quick).go()
        error = "" if not result.failed else f"{len(result.failed)} tags failed; {next(iter(result.failed.values()))}"
    except (EgressRefused, RemoteAway, RemoteBusy, RemoteBroken, RemoteRefused, RemoteUnknown, StoreFull) as failure:
        error = str(failure)
    Mirror.objects.filter(pk=row.pk).update(ran_at=timezone.now(), result=result.as_dict(), error=error[:500])
    control.log(_summary(row, result, error))
    if error:
        raise MirrorFailed(error[:500])
    return result.as_dict()


def _take(mirror_id: str, job_id: str) -> Mirror | None:
    """The mirror, with our job noted on it unless another job has it and is still at work."""
    with transaction.atomic():
        rows = Mirror.objects.select_for_update(of=("self",)).select_related("repository__collection", "repository__namespace")
        row = rows.filter(pk=mirror_id, enabled=True, repository__deleted_at=None).first()
        if row is None:
            return None
        if row.job_id != job_id and not Job.objects.filter(pk=row.job_id, state=JobState.RUNNING).exists():
            row.job_id = job_id
            Mirror.objects.filter(pk=row.pk).update(job_id=job_id)
        return row


def _summary(row: Mirror, result: Result, error: str) -> str:
    moved = result.moved
    text = (
        f"{row.direction} {row.remote}: {result.looked_at} tags looked at, {len(result.copied)} copied, {len(result.deleted)}"
        f" deleted; {moved.manifests} manifests and {moved.blobs} blobs with {moved.bytes} bytes moved, {moved.spared} were there"
    )
    return f"{text}; {error}" if error else text


class _Run:
    def __init__(self, row: Mirror, client: RegistryClient, control: Control, result: Result, *, quick: bool) -> None:
        self.row, self.client, self.control, self.result, self.quick = row, client, control, result, quick
        self.rules: tuple[Rule, ...] = check_rules(row.rules)
        self.known = {tag.name: tag for tag in row.tags.all()}
        self.actor = Actor("system", f"mirror/{row.pk}", f"mirror of {row.host}")

    def wanted(self, candidate: Candidate) -> bool:
        return judge(self.rules, candidate, timezone.now()).met is True

    def each(self, names: list[str], copy: Callable[[str], bool]) -> None:
        """Copy tag after tag; one that fails holds up the others no more than it must."""
        for number, name in enumerate(names):
            self.control.progress(number, len(names), f"{self.row.direction} {name}")
            try:
                if copy(name):
                    self.result.copied.append(name)
            except (RemoteBroken, RemoteRefused, RemoteUnknown, ManifestUnknown) as error:
                self.failed(name, error)
            except WharfError as error:
                if error.retry:
                    raise  # away, busy, full: the others would fare no better
                self.failed(name, error)
        self.control.progress(len(names), len(names), "")

    def failed(self, name: str, error: WharfError) -> None:
        self.control.log(f"{name} failed: {error}")
        self.result.failed[name] = str(error)
        if len(self.result.failed) >= FAILURES:
            raise RemoteBroken(f"{FAILURES} tags failed, the last one: {error}")

    def note(self, kind: str, name: str, digest: str, graph: str) -> None:
        """The tag is done: remember it and say so, once for each state of it."""
        with transaction.atomic():
            before = MirroredTag.objects.filter(mirror=self.row, name=name).first()
            if not Mirror.objects.filter(pk=self.row.pk).exists():
                raise RemoteBroken("the mirror was removed while it ran")
            MirroredTag.objects.update_or_create(
                mirror=self.row, name=name, defaults={"digest": digest, "graph": graph, "at": timezone.now()}
            )
            if before is None or (before.digest, before.graph) != (digest, graph):
                self.record(kind, tag=name, digest=digest)

    def forget(self, kind: str, name: str, digest: str) -> None:
        with transaction.atomic():
            MirroredTag.objects.filter(mirror=self.row, name=name).delete()
            self.record(kind, tag=name, digest=digest, deleted=True)
        self.result.deleted.append(name)

    def record(self, kind: str, **data: Any) -> None:
        home = self.row.repository
        events.record(
            kind,
            actor=self.actor,
            target=f"repository/{home.pk}",
            collection_path=home.collection.path,
            data={"name": home.full_name, "remote": self.row.remote, "job": self.control.job_id, **data},
        )


class _PushRun(_Run):
    def go(self) -> None:
        home = self.row.repository
        self.tags = {
            tag.name: tag for tag in Tag.objects.filter(repository=home).select_related("manifest").defer("manifest__content")
        }
        names = sorted(name for name, tag in self.tags.items() if self.wanted(_candidate(tag)))
        self.result.looked_at = len(names)
        self.push = Push(home, self.client, self.row.remote_name, self.control.log, self.result.moved)
        self.each(names, self.copy)
        if self.row.deletions:
            self.each(sorted(set(self.known) - set(self.tags)), self.delete)

    def copy(self, name: str) -> bool:
        digest = self.tags[name].manifest.digest
        graph = local_graph(self.row.repository, digest)
        print_ = hashlib.sha256("\n".join(graph).encode()).hexdigest()
        known = self.known.get(name)
        same = known is not None and (known.digest, known.graph) == (digest, print_)
        if same and (self.quick or self._is_there(name, digest)):
            return False
        self.push.image(graph, digest, name)
        self.note("mirror.pushed", name, digest, print_)
        self.control.log(f"pushed {name} as {digest[:19]}")
        return True

    def _is_there(self, name: str, digest: str) -> bool:
        found = self.client.head_manifest(self.row.remote_name, name)
        return found is not None and found.digest == digest

    def delete(self, name: str) -> bool:
        """Only where it still is what we put there: somebody else's tag stays."""
        digest = self.known[name].digest
        if self._is_there(name, digest):
            try:
                self.client.delete_manifest(self.row.remote_name, name)
            except RemoteRefused:
                # Older registries delete by digest only; other tags of it would go with it.
                if MirroredTag.objects.filter(mirror=self.row, digest=digest).exclude(name=name).exists():
                    raise
                self.client.delete_manifest(self.row.remote_name, digest)
        self.forget("mirror.pushed", name, digest)
        return False


class _PullRun(_Run):
    def go(self) -> None:
        now = timezone.now()
        there = sorted(set(self.client.tags(self.row.remote_name)))
        names = [name for name in there if self.wanted(Candidate(name, "", now))]
        self.result.looked_at = len(names)
        self.tags = dict(Tag.objects.filter(repository=self.row.repository).values_list("name", "manifest__digest"))
        self.pull = Pull(
            self.row.repository,
            self.client,
            self.row.remote_name,
            self.actor,
            _lender(self.row),
            self.control.log,
            self.control.wait,
            self.result.moved,
        )
        self.each(names, self.copy)
        if self.row.deletions:
            self.each(sorted(set(self.known) - set(there)), self.delete)

    def copy(self, name: str) -> bool:
        found = self.client.head_manifest(self.row.remote_name, name)
        if found is not None and found.digest and self.tags.get(name) == found.digest:
            before = self.result.moved.manifests
            self.pull.referrers(found.digest)  # a signature may have come since
            self.note("mirror.polled", name, found.digest, "")
            return self.result.moved.manifests > before
        digest = self.pull.image(name, name)
        self.note("mirror.polled", name, digest, "")
        self.control.log(f"pulled {name} as {digest[:19]}")
        return True

    def delete(self, name: str) -> bool:
        try:
            manifests.delete_tag(self.actor, self.row.repository.full_name, name)
        except ManifestUnknown:
            pass  # gone already: retention, or an earlier attempt
        except (ImageInUse, TagImmutable) as error:
            self.control.log(f"{name} is gone there and stays here: {error}")
            return False
        self.forget("mirror.polled", name, self.known[name].digest)
        return False


_RUNS: dict[str, type[_PushRun] | type[_PullRun]] = {"push": _PushRun, "pull": _PullRun}


def _candidate(tag: Tag) -> Candidate:
    return Candidate(tag.name, tag.manifest.digest, tag.pushed_at)


def _lender(row: Mirror) -> Actor | None:
    """Who made the mirror, as far as their reading rights go; nobody for administrators, who see what is others' secret."""
    user = User.objects.filter(username=row.created_by, is_active=True, is_admin=False).first()
    return None if user is None else actor_of_user(user)
