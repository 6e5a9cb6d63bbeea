"""Schedules: rows from the declarations, and one job a tick on any number of workers."""

from __future__ import annotations

import datetime

from croniter import croniter
from django.db import IntegrityError, transaction

from agent.protocol.errors import InvalidInput
from controlplane import events
from controlplane.api.actor import SYSTEM, Actor
from controlplane.jobs import doorbell
from controlplane.jobs.actions import insert
from controlplane.jobs.clock import database_now
from controlplane.jobs.declare import Schedule, kind_of, kinds, schedules
from controlplane.jobs.models import ScheduleRow


def next_tick(cron: str, after: datetime.datetime) -> datetime.datetime:
    """The first tick later than `after`, UTC. Raises InvalidInput."""
    return _tick(cron, after, forward=True)


def last_tick(cron: str, until: datetime.datetime) -> datetime.datetime:
    """The latest tick that is not later than `until`, UTC."""
    return _tick(cron, until.replace(microsecond=0) + datetime.timedelta(seconds=1), forward=False)


def _tick(cron: str, base: datetime.datetime, *, forward: bool) -> datetime.datetime:
    if len(cron.split()) != 6:
        raise InvalidInput(f"{cron!r} is no schedule: it needs six fields, seconds first, as in '0 30 3 * * *' for 03:30:00 UTC.")
    try:
        ticks = croniter(cron, base.astimezone(datetime.UTC), second_at_beginning=True)
        tick: datetime.datetime = (ticks.get_next if forward else ticks.get_prev)(datetime.datetime)
    except (ValueError, KeyError) as error:  # croniter's own errors are ValueErrors
        raise InvalidInput(f"{cron!r} is no schedule: {error}.") from None
    return tick.astimezone(datetime.UTC)


def declare_rows() -> None:
    """Makes a row for each declared schedule. A changed declaration moves a row that people left alone."""
    declared = schedules()
    now = database_now()
    rows = {row.name: row for row in ScheduleRow.objects.all()}
    for name, schedule in declared.items():
        row = rows.get(name)
        if row is None:
            _create(name, schedule, now)
        elif (row.declared_cron, row.payload, row.priority) != (schedule.cron, dict(schedule.payload), schedule.priority):
            cron = schedule.cron if row.cron == row.declared_cron else row.cron
            ScheduleRow.objects.filter(pk=name).update(
                cron=cron,
                declared_cron=schedule.cron,
                payload=dict(schedule.payload),
                priority=schedule.priority,
                next_due=next_tick(cron, now),
            )
    ScheduleRow.objects.exclude(name__in=list(declared)).delete()


def _create(name: str, schedule: Schedule, now: datetime.datetime) -> None:
    ScheduleRow.objects.get_or_create(
        name=name,
        defaults={
            "kind": schedule.kind,
            "cron": schedule.cron,
            "declared_cron": schedule.cron,
            "payload": dict(schedule.payload),
            "priority": schedule.priority,
            "enabled": schedule.enabled,
            "next_due": next_tick(schedule.cron, now),
        },
    )


def change(actor: Actor, row: ScheduleRow, *, cron: str | None = None, enabled: bool | None = None) -> ScheduleRow:
    """An operator's change of when a schedule runs, or whether. Raises InvalidInput."""
    row.cron = row.cron if cron is None else cron
    row.enabled = row.enabled if enabled is None else enabled
    row.next_due = next_tick(row.cron, database_now())
    with transaction.atomic():
        row.save(update_fields=["cron", "enabled", "next_due"])
        events.record(
            "schedule.changed", actor=actor, target=f"schedule/{row.name}", data={"cron": row.cron, "enabled": row.enabled}
        )
    return row


def fire() -> float | None:
    """Makes a job for each schedule that is due. Ticks missed meanwhile make one job together.

    Returns the seconds until the next tick, None when no schedule is enabled.
    """
    now = database_now()
    for row in ScheduleRow.objects.filter(enabled=True, next_due__lte=now, kind__in=list(kinds())):
        _fire_one(row, now)
    upcoming = ScheduleRow.objects.filter(enabled=True).order_by("next_due").values_list("next_due", flat=True).first()
    return None if upcoming is None else max(0.0, (upcoming - now).total_seconds())


def _fire_one(row: ScheduleRow, now: datetime.datetime) -> None:
    due = last_tick(row.cron, now)
    kind = kind_of(row.kind)
    try:
        with transaction.atomic():
            # The old value in the condition: of two sweepers that see the same tick, one moves it on.
            if not ScheduleRow.objects.filter(pk=row.pk, next_due=row.next_due).update(next_due=next_tick(row.cron, now)):
                return
            job, created = insert(
                f"schedule:{row.name}",
                kind=row.kind,
                payload=row.payload,
                priority=row.priority,
                actor_kind=SYSTEM.kind,
                actor_id=SYSTEM.id,
                actor_name=SYSTEM.name,
                single=row.kind if kind.single else "",
                max_attempts=kind.max_attempts,
                schedule=row.name,
                due_at=due,
            )
            if created:
                transaction.on_commit(lambda: doorbell.ring(job.id))
    except IntegrityError:  # (schedule, due_at): the tick has its job already
        return
