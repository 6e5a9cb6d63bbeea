"""Mirrors: one run at a time, by the clock, by whom; secrets and refusals."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from controlplane.jobs import enqueue
from controlplane.jobs.models import Job
from registry.actions import mirror_runs, mirrors
from registry.models import Mirror, Repository
from registry.remote.errors import EgressRefused, RemoteRefused
from registry.storage.store import BlobStore
from tests.conformance.distribution.anchor import BINARY
from tests.integration.registry.mirroring.acts import mirror
from tests.integration.registry.scripted import Says, scripted
from tests.integration.registry.test_rest import Caller
from tests.integration.registry.upstream import Upstream

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(BINARY is None, reason="this machine lacks Debian's docker-registry"),
]


def test_one_run_at_a_time(alice: Caller, web: Repository, peer: Upstream, store: BlobStore) -> None:
    row = mirror(alice, peer)
    other = enqueue("registry.mirror", {"mirror": row.pk}, actor=SYSTEM)
    Job.objects.filter(pk=other.pk).update(state="running", lease_until=timezone.now() + timedelta(minutes=1))
    Mirror.objects.filter(pk=row.pk).update(job_id=other.pk)
    control = mirror_runs.Control("x" * 25, print, lambda seconds: None, lambda done, total, text: None)
    assert "is not over" in mirror_runs.run(row.pk, control, quick=True)["skipped"]
    again = Job.objects.get(kind="registry.mirror", state="queued")
    assert again.payload == {"mirror": row.pk, "quick": True}
    assert again.run_after > timezone.now()
    Job.objects.filter(pk=other.pk).update(state="done")
    assert "looked_at" in mirror_runs.run(row.pk, control, quick=True)


def test_runs_by_the_clock(alice: Caller, web: Repository, peer: Upstream) -> None:
    row = mirror(alice, peer, "pull", cron="0 */30 * * * *")
    assert row.next_due is not None
    assert mirror_runs.start_due() == 0
    Mirror.objects.update(next_due=timezone.now() - timedelta(hours=3))
    assert mirror_runs.start_due() == 1
    assert mirror_runs.start_due() == 0, "ticks that were missed run once"
    row.refresh_from_db()
    assert row.next_due > timezone.now()
    with pytest.raises(InvalidInput, match="once a minute"):
        mirrors.update_mirror(alice.actor, row, None, cron="*/5 * * * * *")


def test_the_secret_is_sealed_never_shown_and_bound_to_its_place(alice: Caller, web: Repository) -> None:
    body = {"repository": "alice/web", "direction": "push", "url": "https://93.184.216.34", "remote_name": "a/b"}
    made = alice.call("post", "mirrors", {**body, "username": "bob", "secret": "hunter2hunter2"}, expect=201)
    assert made["has_secret"]
    assert "hunter2" not in json.dumps(made) + str(list(Mirror.objects.values())) + str(list(Event.objects.values()))
    row = Mirror.objects.get()
    assert mirrors.remote_of(row).secret == "hunter2hunter2"
    path = f"mirrors/{row.pk}"
    alice.call("patch", path, {"url": "https://93.184.216.35"}, expect=400, **{"If-Match": "*"})
    check = {"mirror": row.pk, "direction": "push", "url": "https://93.184.216.35", "remote_name": "a/b"}
    alice.call("post", "mirrors/check", check, expect=400)
    alice.call("patch", path, {"url": "https://93.184.216.35", "secret": "other"}, **{"If-Match": "*"})


def test_a_connection_is_tried(alice: Caller, charlie: Caller, web: Repository, peer: Upstream) -> None:
    body = {"direction": "push", "url": peer.url, "remote_name": "team/web"}
    alice.call("post", "mirrors/check", body, expect=204)
    alice.call("post", "mirrors/check", {**body, "direction": "pull"}, expect=204)
    charlie.call("post", "mirrors/check", body, expect=403)
    challenge = {"WWW-Authenticate": 'Basic realm="r"'}
    with scripted(lambda asked: Says(401, challenge)) as site, pytest.raises(RemoteRefused, match="does not let the user bob"):
        mirrors.try_connection(alice.actor, url=site.url, remote_name="a/b", direction="push", username="bob", secret="wrong")
    peer.kill()
    assert "cannot be reached" in alice.call("post", "mirrors/check", body, expect=503)["detail"]


def test_strangers_and_odd_values(alice: Caller, charlie: Caller, web: Repository, settings: Any) -> None:
    body = {"repository": "alice/web", "direction": "push", "url": "https://93.184.216.34", "remote_name": "a/b"}
    charlie.call("post", "mirrors", body, expect=404)
    made = alice.call("post", "mirrors", body, expect=201)
    path = f"mirrors/{made['id']}"
    for method, suffix in (("get", ""), ("delete", ""), ("post", "/run"), ("get", "/tags")):
        charlie.call(method, path + suffix, expect=404)
    charlie.call("patch", path, {"enabled": False}, expect=404, **{"If-Match": "*"})
    place = {key: body[key] for key in ("direction", "url", "remote_name")}
    charlie.call("post", "mirrors/check", {"mirror": made["id"], **place}, expect=404)
    assert charlie.call("get", "mirrors") == []
    assert len(alice.call("get", "mirrors?repository=alice/web")) == 1
    for odd in (
        *({"direction": "sideways"}, {"url": "https://93.184.216.34/v2/"}, {"url": "https://user@93.184.216.34"}),
        *({"url": "http://10.0.0.1"}, {"remote_name": "UPPER"}, {"cron": "every day"}, {"speed": -1}, {"tls_ca": "nonsense"}),
        {"rules": [{"field": "colour", "operator": "equals", "values": ["red"]}]},
    ):
        alice.call("post", "mirrors", {**body, **odd}, expect=400)
    alice.call("post", "mirrors", {**body, "direction": "pull"}, expect=201)
    alice.call("post", "mirrors", {**body, "direction": "pull"}, expect=409)
    job = alice.call("post", f"{path}/run", expect=202)["job"]
    assert Job.objects.get(pk=job).payload == {"mirror": made["id"], "quick": False}
    alice.call("patch", path, {"enabled": False}, **{"If-Match": "*"})
    alice.call("post", f"{path}/run", expect=409)
    alice.call("get", f"{path}/tags")
    alice.call("delete", path, expect=204)
    kinds = set(Event.objects.filter(kind__startswith="mirror.").values_list("kind", flat=True))
    assert kinds == {"mirror.created", "mirror.updated", "mirror.deleted"}


def test_refusals_of_actions(alice: Caller, web: Repository, settings: Any) -> None:
    place = {"direction": "push", "url": "https://93.184.216.34", "remote_name": "a/b"}
    with pytest.raises(NotFound):
        mirrors.create_mirror(alice.actor, repository="alice/none", **place)
    settings.REGISTRY_EGRESS_ALLOW = []
    with pytest.raises(EgressRefused):
        mirrors.create_mirror(alice.actor, repository="alice/web", **{**place, "url": "http://127.0.0.1:5000"})
    made = mirrors.create_mirror(alice.actor, repository="alice/web", **place)
    with pytest.raises(mirrors.MirrorChanged):
        mirrors.update_mirror(alice.actor, made, 7, enabled=False)
