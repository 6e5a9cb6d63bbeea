import datetime

import pytest

from agent.protocol.errors import InvalidInput
from controlplane.jobs.cron import last_tick, next_tick

NOON = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("57 54 3 * * *", "2026-03-02T03:54:57+00:00"),
        ("*/5 * * * * *", "2026-03-01T12:00:05+00:00"),
        ("0 0 12 * * *", "2026-03-02T12:00:00+00:00"),
        ("0 0 0 1 * *", "2026-04-01T00:00:00+00:00"),
    ],
)
def test_seconds_come_first_and_times_are_utc(cron: str, expected: str) -> None:
    assert next_tick(cron, NOON).isoformat() == expected


def test_the_last_tick_may_be_now() -> None:
    assert last_tick("0 0 12 * * *", NOON) == NOON
    assert last_tick("0 0 12 * * *", NOON - datetime.timedelta(milliseconds=1)) == NOON - datetime.timedelta(days=1)


@pytest.mark.parametrize("cron", ["* * * * *", "61 * * * * *", "x * * * * *", "", "0 0 0 0 0 0 0"])
def test_a_bad_schedule_says_what_is_wrong(cron: str) -> None:
    with pytest.raises(InvalidInput):
        next_tick(cron, NOON)
