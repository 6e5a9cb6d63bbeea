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
from registry.storage.store import StoreAway
from registry.v2 import uploads as v2

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


async def test_a_store_that_is_away_at_the_end_of_a_request_leaves_what_was_noted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Writer:
        offset = 500

        def write(self, data: bytes) -> None: ...

        def state(self) -> bytes | None:
            return b"new"

        def close(self) -> None:
            raise StoreAway("away")

    noted: list[tuple[int, bytes | None]] = []
    held = uploads.Claim("s1", "r", 100, "sha256", b"old", 1, "alice")
    monkeypatch.setattr(uploads, "release", lambda held, offset, state: noted.append((offset, state)))
    with pytest.raises(StoreAway):
        await v2._release(held, Writer())
    assert noted == [(100, b"old")]
