"""Who may write an upload: one at a time, each from where the last one ended."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.utils import timezone

from controlplane.api.actor import SYSTEM
from registry.actions import uploads
from registry.errors import RangeInvalid, UploadUnknown
from registry.models import Upload

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "admin/a"


@pytest.fixture
def session() -> str:
    return str(uploads.open_upload(SYSTEM, NAME, "sha256").pk)


def test_one_writer_at_a_time(session: str) -> None:
    held = uploads.claim(NAME, session, None)
    with pytest.raises(RangeInvalid):
        uploads.claim(NAME, session, None)
    assert uploads.renew(held)
    assert uploads.release(held, 10, b"state")
    again = uploads.claim(NAME, session, 10)
    assert (again.offset, again.state) == (10, b"state")


def test_a_look_before_anothers_release_makes_no_writer(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the row while A writes, then take it after A released it: the offset that was read is past."""
    first = uploads.claim(NAME, session, 0)
    real = Upload.objects.filter
    looked: list[bool] = []

    def look_then_release(*arguments: Any, **fields: Any) -> Any:
        found = real(*arguments, **fields)
        if not looked and "repository__full_name" in fields:
            looked.append(True)
            row = found.first()
            assert uploads.release(first, 4, None)
            return type("Found", (), {"first": lambda self: row})()
        return found

    monkeypatch.setattr(Upload.objects, "filter", look_then_release)
    with pytest.raises(RangeInvalid):
        uploads.claim(NAME, session, 0)
    assert looked
    assert Upload.objects.get(pk=session).offset == 4


def test_a_chunk_begins_where_the_upload_ends(session: str) -> None:
    for first in (1, 100):
        with pytest.raises(RangeInvalid) as refused:
            uploads.claim(NAME, session, first)
        assert refused.value.extra["offset"] == 0


def test_a_dead_writers_lease_ends_and_it_can_change_nothing_any_more(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = uploads.claim(NAME, session, None)
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + datetime.timedelta(seconds=uploads.LEASE_SECONDS + 1))
    alive = uploads.claim(NAME, session, 0)
    assert not uploads.renew(dead)
    assert not uploads.release(dead, 99, None)
    assert uploads.release(alive, 5, None)
    assert Upload.objects.get(pk=session).offset == 5


def test_the_algorithm_may_be_named_late_while_nothing_was_written(session: str) -> None:
    held = uploads.claim(NAME, session, None, "sha512")
    assert held.algorithm == "sha512"
    uploads.release(held, 3, None)
    assert uploads.claim(NAME, session, None, "sha512").algorithm == "sha256"


def test_cancelled_and_foreign_sessions_are_unknown(session: str) -> None:
    with pytest.raises(UploadUnknown):
        uploads.claim("admin/other", session, None)
    uploads.cancel(NAME, session)
    with pytest.raises(UploadUnknown):
        uploads.cancel(NAME, session)
    with pytest.raises(UploadUnknown):
        uploads.claim(NAME, session, None)
