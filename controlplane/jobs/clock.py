"""The database's clock: leases compare only with it, never with a worker's own."""

from __future__ import annotations

import datetime
from typing import Any

from django.db import connection
from django.db.models import DateTimeField, DurationField, ExpressionWrapper, Value
from django.db.models.functions import Now


def ahead(seconds: float) -> ExpressionWrapper[Any]:
    """An SQL expression: now plus `seconds`."""
    return ExpressionWrapper(
        Now() + Value(datetime.timedelta(seconds=seconds), output_field=DurationField()), output_field=DateTimeField()
    )


def database_now() -> datetime.datetime:
    """The database's time, aware, UTC."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')")
            return datetime.datetime.fromisoformat(cursor.fetchone()[0])
        cursor.execute("SELECT statement_timestamp()")
        now: datetime.datetime = cursor.fetchone()[0]
        return now.astimezone(datetime.UTC)
