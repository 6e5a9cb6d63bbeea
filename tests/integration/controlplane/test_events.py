"""The chain: what tampering is found, what racing appenders leave, what readers get."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from agent.protocol.errors import Conflict, Internal, InvalidInput
from controlplane.api.actor import SYSTEM
from controlplane.api.errors import Gone
from controlplane.events import anchor, live, record
from controlplane.events.compact import compact
from controlplane.events.models import ChainHead, Checkpoint, Event
from controlplane.events.verify import verify

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_head_file(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "AUDIT_DIR", tmp_path / "audit")


def fill(count: int = 6, **options) -> list[Event]:
    with transaction.atomic():
        return [
            record("thing.done", actor=SYSTEM, target=f"thing/{n}", data={"n": n, "f": 1.5, "big": 1e20}, **options)
            for n in range(count)
        ]


def kinds() -> list[tuple[int, str]]:
    return [(finding.sequence, finding.kind) for finding in verify().findings]


def test_untouched_events_verify():
    fill()
    anchor.write()
    fill()
    report = verify()
    assert report.ok
    assert report.checked == Event.objects.count()


def test_hashes_cover_what_the_database_gives_back():
    with transaction.atomic():
        record(
            "odd.data",
            actor=SYSTEM,
            target="a\x00b",
            data={"t": (1, 2), "s": "\ud800\x00é", "when": timezone.now(), "f": [0.1, 1e-7, 3.0]},
        )
    assert verify().ok


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "thing.undone"},
        {"actor_name": "somebody"},
        {"actor_id": "x"},
        {"target": "thing/99"},
        {"collection_path": "/else/"},
        {"data": {"n": 99}},
        {"at": timezone.now() - timedelta(days=1)},
        {"hash": "f" * 64},
        {"prev_hash": "f" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_flipped_column_is_found_at_its_row(change):
    rows = fill()
    Event.objects.filter(pk=rows[2].pk).update(**change)
    assert (rows[2].pk, "changed") in kinds()


def test_a_dropped_row_is_found():
    rows = fill()
    Event.objects.filter(pk=rows[3].pk).delete()
    assert kinds() == [(rows[3].pk, "removed")]


def test_the_first_row_dropped_is_found():
    first = fill()[0]
    Event.objects.order_by("id").first().delete()
    assert kinds()[0][1] == "removed"
    assert first.pk > 0


def test_swapped_rows_are_found():
    rows = fill()
    a, b = rows[1].pk, rows[2].pk
    spare = rows[-1].pk + 1000
    for source, to in ((a, spare), (b, a), (spare, b)):
        Event.objects.filter(pk=source).update(id=to)
    assert {sequence for sequence, _ in kinds()} >= {a, b}


def test_rows_that_were_renumbered_after_a_removal_are_found():
    rows = fill()
    Event.objects.filter(pk=rows[3].pk).delete()
    for row in rows[4:]:
        Event.objects.filter(pk=row.pk).update(id=F("id") - 1)
    assert kinds()


def test_a_truncated_tail_is_found_by_the_head_row():
    rows = fill()
    Event.objects.filter(pk__gte=rows[4].pk).delete()
    assert kinds() == [(rows[4].pk, "truncated")]


def test_a_truncated_tail_with_a_forged_head_row_is_found_by_the_signed_file():
    rows = fill()
    anchor.write()
    Event.objects.filter(pk__gte=rows[4].pk).delete()
    ChainHead.objects.update(sequence=rows[3].pk, hash=rows[3].hash)
    assert kinds() == [(rows[4].pk, "truncated")]


def test_a_restored_backup_is_accepted_by_a_word_and_leaves_an_event():
    from django.core.management import CommandError, call_command

    rows = fill()
    anchor.write()
    Event.objects.filter(pk__gte=rows[2].pk).delete()
    ChainHead.objects.update(sequence=rows[1].pk, hash=rows[1].hash)
    with pytest.raises(CommandError):
        call_command("verify_audit")
    call_command("verify_audit", "--accept-restored")
    assert verify().ok
    assert Event.objects.order_by("-id").first().kind == "audit.restore_accepted"


def test_a_chain_rewritten_from_the_first_row_is_found_by_the_signed_file():
    from controlplane.events.chain import GENESIS, link

    fill()
    anchor.write()
    previous = GENESIS
    for row in Event.objects.order_by("id"):
        row.actor_name, row.prev_hash = "somebody", previous
        row.hash = previous = link(previous, row)
        row.save()
    ChainHead.objects.update(hash=previous)
    assert [kind for _, kind in kinds()] == ["forged"]


def test_a_forged_head_file_is_found():
    rows = fill()
    anchor.write()
    path = settings.AUDIT_DIR / "head.json"
    body = json.loads(path.read_text())
    body["sequence"] = rows[0].pk
    body["hash"] = rows[0].hash
    path.write_text(json.dumps(body))
    assert [kind for _, kind in kinds()] == ["forged"]


def test_compaction_leaves_a_signed_checkpoint_and_a_chain_that_verifies():
    fill(10)
    removed = compact(SYSTEM, keep=4)
    assert removed >= 6
    report = verify()
    assert report.ok
    assert report.first == Checkpoint.objects.get().sequence + 1
    fill(3)
    compact(SYSTEM, keep=2)
    assert verify().ok
    assert Checkpoint.objects.count() == 1
    Checkpoint.objects.update(signature="0" * 64)
    assert [kind for _, kind in kinds()] == ["forged"]


def test_compaction_refuses_to_wash_a_manipulation_away():
    rows = fill(10)
    Event.objects.filter(pk=rows[1].pk).update(actor_name="somebody")
    with pytest.raises(Conflict, match=str(rows[1].pk)):
        compact(SYSTEM, keep=2)
    assert Event.objects.filter(pk=rows[0].pk).exists()


def test_since_is_gone_after_compaction_and_refuses_the_future():
    rows = fill(10)
    compact(SYSTEM, keep=4)
    with pytest.raises(Gone):
        live.since(SYSTEM, rows[0].pk)
    with pytest.raises(InvalidInput):
        live.since(SYSTEM, live.head() + 1)
    assert [event.id for event in live.since(SYSTEM, live.head() - 2)] == [live.head() - 1, live.head()]


@pytest.mark.django_db(transaction=True)
def test_an_event_outside_a_transaction_is_refused():
    with pytest.raises(Internal, match="outside"):
        record("thing.done", actor=SYSTEM)


@pytest.mark.django_db(transaction=True)
def test_a_rolled_back_fact_leaves_no_event_and_no_gap():
    fill(2)

    class Stop(Exception):
        pass

    def fact():
        with transaction.atomic():
            record("thing.done", actor=SYSTEM)
            raise Stop

    with pytest.raises(Stop):
        fact()
    fill(2)
    assert verify().ok


@pytest.mark.django_db(transaction=True)
def test_racing_appenders_leave_one_gapless_chain():
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for n in range(15):
                with transaction.atomic():
                    record("race.run", actor=SYSTEM, target=f"{name}/{n}")
        except BaseException as error:  # noqa: BLE001  # shown by the assertion below
            errors.append(error)
        finally:
            connection.close()

    before = Event.objects.count()
    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert Event.objects.count() == before + 60
    assert verify().ok


# --- readers --------------------------------------------------------------------------------------------------------------------


def test_a_user_reads_the_events_of_visible_collections_only(api, people):
    fill(1, collection_path="/Shared/Private/alice/")
    fill(1, collection_path="/Prod/")
    paths = {row["collection_path"] for row in api(people.alice).get("/api/v1/events").json()}
    assert paths == {"/Shared/Private/alice/"}
    assert {"/Prod/", "/Shared/Private/alice/"} <= {
        row["collection_path"] for row in api(people.admin).get("/api/v1/events").json()
    }


def test_list_pages_by_number(api, people):
    fill(7)
    client = api(people.admin)
    start = live.head() - 7
    first = client.get(f"/api/v1/events?since={start}&limit=3&kind=thing.")
    assert [row["id"] for row in first.json()] == [start + 1, start + 2, start + 3]
    following = first["Link"].split(">")[0].lstrip("<")
    assert client.get(following).json()[0]["id"] == start + 4
    compact(SYSTEM, keep=2)
    gone = client.get(f"/api/v1/events?since={start}")
    assert (gone.status_code, gone.json()["code"]) == (410, "gone")


@pytest.mark.parametrize("bad", ["-1", "x", "1e3", "²", "9" * 30])
def test_odd_numbers_are_refused(api, people, bad):
    assert api(people.admin).get("/api/v1/events", {"since": bad}).status_code == 400


@pytest.mark.django_db(transaction=True)
async def test_stream_gives_old_and_new_events_in_order():
    from asgiref.sync import sync_to_async

    from controlplane.events.api import NDJSON, SSE, stream

    first = await sync_to_async(fill)(2)
    lines = stream(SYSTEM, first[0].id - 1, NDJSON)
    got = [json.loads(await anext(lines))["id"] for _ in range(2)]
    assert got == [event.id for event in first]
    assert (await anext(lines)).strip() == b""
    later = await sync_to_async(fill)(1)
    text = b""
    while not text.strip():
        text = await anext(lines)
    assert json.loads(text)["id"] == later[0].id
    await lines.aclose()
    frames = stream(SYSTEM, first[0].id - 1, SSE)
    assert (await anext(frames)).startswith(b"id: %d\nevent: thing.done\ndata: {" % first[0].id)
    await frames.aclose()


@pytest.mark.django_db(transaction=True)
async def test_stream_ends_when_the_account_is_disabled():
    from asgiref.sync import sync_to_async

    from controlplane.api.actor import actor_of_user
    from controlplane.events.api import NDJSON, stream
    from controlplane.users import actions

    await sync_to_async(actions.create_user)(SYSTEM, "root", None, is_admin=True)
    user = await sync_to_async(actions.create_user)(SYSTEM, "eva", None)
    lines = stream(actor_of_user(user), await sync_to_async(live.head)(), NDJSON)
    await anext(lines)
    await sync_to_async(actions.update_user)(SYSTEM, user, {"is_active": False})
    assert [line async for line in lines] == []
