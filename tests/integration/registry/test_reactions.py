"""Reactions: every event once and in order, over kills and failures; none holds up another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from controlplane import events
from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from controlplane.jobs.models import Job
from registry.actions import reactions
from registry.models import ReactionCursor
from tests.integration.registry import world
from tests.integration.registry.running import database_url

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: Any) -> None:
    monkeypatch.setattr(reactions, "REACTIONS", {})
    monkeypatch.setattr(reactions, "MODULES", ())
    monkeypatch.setattr(reactions, "_waker", reactions._Waker())


def record(kind: str, **data: Any) -> Event:
    with transaction.atomic():
        return events.record(kind, actor=SYSTEM, target="repository/x", data=data)


def kept(name: str, *kinds: str) -> list[int]:
    """A reaction that keeps the numbers of what it was asked for, and has begun."""
    seen: list[int] = []

    @reactions.reaction(name, *kinds)
    def keep(event: Event) -> None:
        seen.append(event.id)

    reactions.run()
    return seen


def due_now() -> None:
    ReactionCursor.objects.update(retry_at=timezone.now() - timedelta(seconds=1))


def test_each_event_once_in_order_from_the_first_run_on() -> None:
    record("tag.pushed", n=0)
    seen = kept("tags", "tag.")
    wanted = [record("tag.pushed", n=1).id, record("manifest.pushed").id, record("tag.deleted").id]
    assert reactions.run() == {"tags": 2}
    assert reactions.run() == {"tags": 0}
    assert seen == [wanted[0], wanted[2]]
    assert ReactionCursor.objects.get(name="tags").position == wanted[2]


def test_what_others_do_moves_the_cursor_too() -> None:
    seen = kept("tags", "tag.pushed")
    last = [record("user.created").id for _ in range(3)][-1]
    reactions.run()
    assert seen == []
    assert ReactionCursor.objects.get(name="tags").position == last


def test_a_failure_takes_back_what_the_reaction_did_and_stops_nobody_else() -> None:
    seen = kept("good", "tag.")
    broken = [True]

    @reactions.reaction("bad", "tag.")
    def bad(event: Event) -> None:
        events.record("half.done", actor=SYSTEM)
        if broken[0]:
            raise RuntimeError("not today")

    reactions.run()
    first, second = record("tag.pushed").id, record("tag.pushed").id
    assert reactions.run() == {"bad": 0, "good": 2}
    row = ReactionCursor.objects.get(name="bad")
    assert (row.attempts, row.error, row.position < first) == (1, "RuntimeError: not today", True)
    assert row.retry_at is not None
    assert not Event.objects.filter(kind="half.done").exists()
    assert Job.objects.filter(kind="registry.react", dedup_key="registry.react:retry", run_after=row.retry_at).exists()
    assert reactions.run()["bad"] == 0, "not before its time"
    assert ReactionCursor.objects.get(name="bad").attempts == 1
    broken[0] = False
    due_now()
    assert reactions.run()["bad"] == 2
    assert Event.objects.filter(kind="half.done").count() == 2
    assert seen == [first, second]


def test_a_poison_event_is_recorded_and_left_behind() -> None:
    done: list[int] = []

    @reactions.reaction("picky", "tag.")
    def picky(event: Event) -> None:
        if event.data["n"] == 1:
            raise ValueError("I cannot eat this")
        done.append(event.data["n"])

    reactions.run()
    poison = [record("tag.pushed", n=n).id for n in range(3)][1]
    pauses = []
    for _ in range(reactions.MAX_ATTEMPTS):
        reactions.run()
        row = ReactionCursor.objects.get(name="picky")
        pauses.append(0 if row.retry_at is None else round((row.retry_at - timezone.now()).total_seconds()))
        due_now()
    assert pauses[:4] == [5, 10, 20, 40]
    assert done == [0, 2]
    skipped = Event.objects.get(kind="registry.reaction_skipped")
    assert skipped.data == {"reaction": "picky", "event": poison, "kind": "tag.pushed", "error": "ValueError: I cannot eat this"}
    assert skipped.target == "repository/x"
    reactions.run()
    assert ReactionCursor.objects.get(name="picky").attempts == 0


def test_a_push_wakes_the_job_at_once_and_a_burst_once_more(tmp_path: Path, settings: Any) -> None:
    from registry.storage import open_store

    settings.BLOB_STORE = str(tmp_path / "blobs")
    kept("tags", "tag.")
    layer = b"layer"
    world.push_blob(open_store(), "alice/web", layer)
    world.push_blob(open_store(), "alice/web", b"{}")
    asked = Job.objects.filter(kind="registry.react")
    assert asked.count() == 0, "nobody wants repository.created"
    world.push_manifest("alice/web", world.manifest_of(b"{}", [layer]), "v1")
    assert asked.count() == 1
    assert asked.get().run_after <= timezone.now()
    asked.update(state="done", dedup_key="")
    for tag in ("v2", "v3", "v4"):
        world.push_manifest("alice/web", world.manifest_of(b"{}", [layer]), tag)
    assert asked.filter(state="queued", run_after__gt=timezone.now()).count() == 1
    assert asked.count() == 2


def test_two_runners_at_once_share_no_event() -> None:
    """The second one comes while the first is in the middle of an event, and finds the cursor elsewhere afterwards."""
    seen: list[tuple[str, int]] = []

    @reactions.reaction("slow", "tag.")
    def slow(event: Event) -> None:
        seen.append(("first", event.id))
        # The other runner read the cursor before us and now tries the same event.
        moved = ReactionCursor.objects.filter(name="slow", position=event.id - 1).update(position=event.id)
        assert not moved

    reactions.run()
    before = ReactionCursor.objects.get(name="slow").position
    event = record("tag.pushed")
    assert reactions.run() == {"slow": 1}
    assert not reactions._handle(reactions.REACTIONS["slow"], before, event)
    assert seen == [("first", event.id)]


_KILLED = """
import os, signal, sys
import django
django.setup()
from django.conf import settings
from controlplane.events.models import Event
from registry.actions import reactions
from registry.models import Repository, TagChange

reactions.REACTIONS.clear()
reactions.MODULES = ()

@reactions.reaction("counted", "tag.")
def count(event):
    TagChange.objects.create(repository=Repository.objects.get(), tag=f"seen-{event.id}", at=event.at)
    if event.data.get("n") == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

reactions.run()
"""


def _run_and_be_killed(at: int) -> int:
    """A process of its own on this test's database that is killed inside of the handler of the event with n == at."""
    environment = {**os.environ, "WHARF_DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "tests.settings"}
    return subprocess.run([sys.executable, "-c", _KILLED, str(at)], env=environment, timeout=60, check=False).returncode


def test_killed_in_the_middle_of_events_each_is_still_done_once() -> None:
    from registry.actions.repositories import ensure_repository
    from registry.models import TagChange

    ensure_repository(SYSTEM, "alice/web")
    assert _run_and_be_killed(-1) == 0
    wanted = [record("tag.pushed", n=n).id for n in range(6)]
    for at in (0, 3, 5):
        assert _run_and_be_killed(at) == -signal.SIGKILL
    # The last kill was in the handler of the last event: nothing of it is left, the ones before are done.
    assert TagChange.objects.count() == 5
    assert _run_and_be_killed(-1) == 0
    assert sorted(TagChange.objects.values_list("tag", flat=True)) == sorted(f"seen-{number}" for number in wanted)
