"""Mirrors to and from Debian's docker-registry and our own server: whole images, only what is missing, over breaks and kills."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from agent.protocol.errors import InvalidInput, NotFound
from agent.protocol.oci import parse_manifest
from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from controlplane.jobs import enqueue
from controlplane.jobs.models import Job
from controlplane.users import actions as users
from registry.actions import manifests, mirror_runs, mirrors, reactions, repositories
from registry.actions.fetching import session_of
from registry.actions.filled import TargetReadOnly
from registry.actions.uploads import open_upload
from registry.models import Manifest, Mirror, MirroredTag, Repository, Tag, Upload
from registry.remote.client import RegistryClient, referrers_tag
from registry.remote.errors import EgressRefused, RemoteRefused
from registry.remote.session import Remote
from registry.storage import open_store
from registry.storage.store import BlobStore
from tests.conformance.distribution.anchor import BINARY
from tests.integration.registry import world
from tests.integration.registry.running import database_url, lose_workers, run_jobs
from tests.integration.registry.scripted import Asked, Says, scripted
from tests.integration.registry.test_remote_client import push_image
from tests.integration.registry.test_rest import Caller
from tests.integration.registry.upstream import Upstream, upstream

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(BINARY is None, reason="this machine lacks Debian's docker-registry"),
]
PASSWORD = "correct-horse-battery"
KIND = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(autouse=True)
def store(settings: Any, tmp_path: Path) -> BlobStore:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    settings.BLOB_STORE = str(tmp_path / "blobs")
    return open_store()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Upstream]:
    with upstream(tmp_path) as running:
        yield running


@pytest.fixture
def there(peer: Upstream) -> Iterator[RegistryClient]:
    with RegistryClient(Remote(peer.url)) as client:
        yield client


@pytest.fixture
def alice() -> Caller:
    return Caller(users.create_user(SYSTEM, "alice", PASSWORD))


@pytest.fixture
def charlie() -> Caller:
    return Caller(users.create_user(SYSTEM, "charlie", PASSWORD))


@pytest.fixture
def web(alice: Caller) -> Repository:
    made = repositories.create_repository(alice.actor, "alice/web")
    reactions.run()
    return made


def put(name: str, document: dict[str, Any], *tags: str) -> str:
    raw = json.dumps(document).encode()
    parsed = parse_manifest(raw)
    return manifests.put_manifest(SYSTEM, name, parsed, parsed.digest(), tags, []).digest


def image(store: BlobStore, name: str, layers: list[bytes], *tags: str, **more: Any) -> str:
    for blob in (b"{}", *layers):
        world.push_blob(store, name, blob)
    return put(name, {**json.loads(world.manifest_of(b"{}", layers)), **more}, *tags)


def subject(digest: str) -> dict[str, Any]:
    row = Manifest.objects.get(digest=digest)
    return {"subject": {"mediaType": row.media_type, "digest": digest, "size": row.size}}


def mirror(who: Caller, peer: Upstream, direction: str = "push", name: str = "team/web", **more: Any) -> Mirror:
    options = {"repository": "alice/web", "direction": direction, "url": peer.url, "remote_name": name, "on_event": False, **more}
    return mirrors.create_mirror(who.actor, **options)


def run(row: Mirror, *, quick: bool = False) -> Job:
    """One run as the job makes it; the job as it ended."""
    mirrors.ask(row, SYSTEM, quick=quick)
    ran = [job for job in run_jobs() if job.kind == "registry.mirror"]
    row.refresh_from_db()
    return ran[-1]


def log_of(job: Job) -> str:
    return "".join(job.log.values_list("text", flat=True))


def bytes_there(client: RegistryClient, name: str, digest: str) -> bytes:
    return b"".join(client.blob(name, digest))


# --- push -----------------------------------------------------------------------------------------------------------------------


def test_an_index_with_signatures_goes_whole_and_equal(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    layer = os.urandom(300_000)
    amd, arm = image(store, "alice/web", [layer]), image(store, "alice/web", [layer, b"arm"])
    children = [{"mediaType": KIND, "digest": digest, "size": Manifest.objects.get(digest=digest).size} for digest in (amd, arm)]
    index = put("alice/web", {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}, "v1", "latest")
    sbom = image(store, "alice/web", [b"sbom"], artifactType="application/spdx+json", **subject(arm))
    signature = image(store, "alice/web", [b"sig"], artifactType="application/vnd.example.signature", **subject(index))
    counter = image(
        store, "alice/web", [b"countersigned"], artifactType="application/vnd.example.signature", **subject(signature)
    )
    row = mirror(alice, peer)
    job = run(row)
    assert (job.state, row.error) == ("done", ""), log_of(job)
    assert sorted(there.tags("team/web")) == sorted(["latest", "v1", *map(referrers_tag, (arm, index, signature))])
    for tag in ("v1", "latest"):
        found = there.get_manifest("team/web", tag)
        assert found is not None
        assert str(found.digest) == index
    for digest in (amd, arm, sbom, signature, counter):
        found = there.get_manifest("team/web", digest)
        assert found is not None
        assert found.raw == bytes(Manifest.objects.get(digest=digest).content)
    assert bytes_there(there, "team/web", str(world.digest_of(layer))) == layer
    # docker-registry has no referrers API: they are found by the old tag schema's index.
    assert [item["digest"] for item in there.referrers("team/web", index)] == [signature]
    assert [item["digest"] for item in there.referrers("team/web", signature)] == [counter]
    assert [item["artifactType"] for item in there.referrers("team/web", arm)] == ["application/spdx+json"]
    assert row.result["blobs"] == 7 - 1  # {}, layer, arm, sbom, sig, countersigned
    assert {event.data["tag"] for event in Event.objects.filter(kind="mirror.pushed")} == {"v1", "latest"}
    assert Event.objects.filter(kind="mirror.pushed").first().data["remote"] == row.remote  # type: ignore[union-attr]  # see above


def test_a_second_run_moves_nothing_and_a_new_tag_only_what_is_new(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    image(store, "alice/web", [b"one", b"base"], "v1")
    row = mirror(alice, peer)
    run(row)
    run(row)
    assert (row.result["copied"], row.result["blobs"], row.result["manifests"]) == (0, 0, 0)
    digest = image(store, "alice/web", [b"two", b"base"], "v2")
    run(row)
    assert (row.result["copied"], row.result["blobs"], row.result["bytes"]) == (1, 1, 3)
    there.delete_manifest("team/web", digest)
    run(row, quick=True)
    assert row.result["copied"] == 0, "a quick run believes what it noted"
    run(row)
    assert (row.result["copied"], row.result["blobs"]) == (1, 0), "a whole one looks"


def test_blobs_are_mounted_from_what_another_mirror_brought_there(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    layer = os.urandom(100_000)
    image(store, "alice/web", [layer], "v1")
    run(mirror(alice, peer))
    repositories.create_repository(alice.actor, "alice/other")
    image(store, "alice/other", [layer], "v1")
    second = mirror(alice, peer, name="team/other", repository="alice/other")
    run(second)
    assert (second.result["blobs"], second.result["bytes"], second.result["spared"]) == (0, 0, 2)
    assert bytes_there(there, "team/other", str(world.digest_of(layer))) == layer


def test_a_push_here_and_a_signature_afterwards_follow_by_themselves(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    mirror(alice, peer, on_event=True, rules=[{"field": "tag", "operator": "matches", "values": ["v*"]}])
    digest = image(store, "alice/web", [b"one"], "v1", "nightly")
    reactions.run()
    assert Job.objects.filter(kind="registry.mirror").count() == 1
    run_jobs()
    assert list(there.tags("team/web")) == ["v1"]
    signature = image(store, "alice/web", [b"sig"], artifactType="application/vnd.example.signature", **subject(digest))
    reactions.run()
    run_jobs()
    assert [item["digest"] for item in there.referrers("team/web", digest)] == [signature]


def test_what_others_signed_there_stays(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    digest = image(store, "alice/web", [b"one"], "v1")
    theirs = push_image(there, "team/web", "theirs", [b"theirs"])
    entry = {"mediaType": KIND, "digest": theirs, "size": 6, "artifactType": "c/d"}
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    there.put_manifest("team/web", referrers_tag(digest), raw, INDEX)
    ours = image(store, "alice/web", [b"sig"], artifactType="a/b", **subject(digest))
    run(mirror(alice, peer))
    assert {item["digest"]: item["artifactType"] for item in there.referrers("team/web", digest)} == {theirs: "c/d", ours: "a/b"}


def test_deletions_only_where_asked_and_only_what_was_ours(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    image(store, "alice/web", [b"one"], "v1")
    image(store, "alice/web", [b"two"], "v2")
    push_image(there, "team/web", "theirs", [b"theirs"])
    row = mirror(alice, peer)
    run(row)
    manifests.delete_tag(SYSTEM, "alice/web", "v2")
    run(row)
    assert sorted(there.tags("team/web")) == ["theirs", "v1", "v2"]
    row = mirrors.update_mirror(alice.actor, row, row.version, deletions=True)
    run(row)
    assert sorted(there.tags("team/web")) == ["theirs", "v1"]
    assert row.result["deleted"] == 1
    assert MirroredTag.objects.filter(mirror=row).values_list("name", flat=True).get() == "v1"


def test_a_registry_that_is_away_is_tried_again_and_the_reason_stands_at_the_mirror(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    image(store, "alice/web", [b"one"], "v1")
    row = mirror(alice, peer)
    peer.kill()
    control = mirror_runs.Control("x" * 25, print, lambda seconds: None, lambda done, total, text: None)
    with pytest.raises(mirror_runs.MirrorFailed) as caught:
        mirror_runs.run(row.pk, control, quick=False)
    assert caught.value.retry, "its job tries again"
    row.refresh_from_db()
    assert "cannot be reached" in row.error
    peer.start()
    assert run(row).state == "done"
    assert row.error == ""
    assert list(there.tags("team/web")) == ["v1"]


def test_one_bad_tag_does_not_keep_the_others(alice: Caller, web: Repository, store: BlobStore) -> None:
    image(store, "alice/web", [b"one"], "bad")
    image(store, "alice/web", [b"two"], "good")

    def answer(asked: Asked) -> Says:
        if asked.method == "HEAD":
            return Says(404 if "manifests" in asked.path else 200)
        return Says(400 if asked.path.endswith("/bad") else 201)

    with scripted(answer) as site:
        row = mirrors.create_mirror(alice.actor, repository="alice/web", direction="push", url=site.url, remote_name="a/b")
        run(row)
    assert row.result["failed"].keys() == {"bad"}
    assert row.result["copied"] in (0, 1)
    assert row.error.startswith("1 tags failed")
    assert list(MirroredTag.objects.values_list("name", flat=True)) == ["good"]


# --- pull -----------------------------------------------------------------------------------------------------------------------


def test_a_pull_brings_tags_children_and_signatures_and_users_may_not_write(
    alice: Caller, charlie: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    layer = os.urandom(200_000)
    digest = push_image(there, "team/web", "v1", [layer])
    push_image(there, "team/web", "dev", [b"dev"])
    document = json.loads(world.manifest_of(b"{}", [b"dev"]))
    raw = json.dumps({**document, "subject": {"mediaType": KIND, "digest": digest, "size": 1}}).encode()
    signature = str(world.digest_of(raw))
    there.put_manifest("team/web", signature, raw, KIND)
    entry = {"mediaType": KIND, "digest": signature, "size": len(raw), "artifactType": "a/b"}
    old = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    there.put_manifest("team/web", referrers_tag(digest), old, INDEX)
    row = mirror(alice, peer, "pull", rules=[{"field": "tag", "operator": "equals", "values": ["v1"]}])
    job = run(row)
    assert job.state == "done", log_of(job)
    assert list(Tag.objects.values_list("name", "manifest__digest")) == [("v1", digest)]
    assert Manifest.objects.get(digest=signature).subject == digest
    opened = store.open(world.digest_of(layer))
    assert opened is not None
    assert opened.read_at(0, opened.size) == layer
    opened.close()
    assert Upload.objects.count() == 0
    assert Event.objects.filter(kind="mirror.polled", data__tag="v1").exists()
    run(row)
    assert (row.result["copied"], row.result["blobs"]) == (0, 0)

    home = Repository.objects.get(pk=web.pk)
    assert home.mirrored_from == row.remote
    for attempt in (
        lambda: open_upload(alice.actor, "alice/web", "sha256"),
        lambda: manifests.delete_tag(alice.actor, "alice/web", "v1"),
        lambda: manifests.delete_manifest(alice.actor, "alice/web", digest),
        lambda: repositories.ensure_repository(alice.actor, "alice/web"),
    ):
        with pytest.raises(TargetReadOnly, match=row.remote):
            attempt()
    mirrors.delete_mirror(alice.actor, row)
    assert open_upload(alice.actor, "alice/web", "sha256").pk


def test_a_moved_tag_moves_and_a_deleted_one_goes_where_asked(
    alice: Caller, web: Repository, peer: Upstream, there: RegistryClient, store: BlobStore
) -> None:
    push_image(there, "team/web", "v1", [b"one"])
    gone = push_image(there, "team/web", "v2", [b"two"])
    row = mirror(alice, peer, "pull", deletions=True)
    run(row)
    moved = push_image(there, "team/web", "v1", [b"three"])
    there.delete_manifest("team/web", gone)
    run(row)
    assert dict(Tag.objects.values_list("name", "manifest__digest")) == {"v1": moved}


@pytest.mark.parametrize("lie", [b"lager", b"layer and more", b"lay"])
def test_a_blob_that_is_not_what_its_manifest_says_is_dropped(
    alice: Caller, web: Repository, store: BlobStore, lie: bytes
) -> None:
    raw = world.manifest_of(b"{}", [b"layer"])

    def answer(asked: Asked) -> Says:
        if asked.path.endswith("tags/list?n=1000"):
            return Says(200, {}, b'{"tags": ["v1"]}')
        if "/manifests/v1" in asked.path:
            return Says(200, {"Content-Type": KIND}, raw)
        if "/blobs/" in asked.path:
            return Says(200, {}, b"{}" if str(world.digest_of(b"{}")) in asked.path else lie)
        return Says(404)

    with scripted(answer) as site:
        row = mirrors.create_mirror(alice.actor, repository="alice/web", direction="pull", url=site.url, remote_name="a/b")
        mirrors.run_now(alice.actor, row)
        run_jobs()
    row.refresh_from_db()
    assert row.result["failed"].keys() == {"v1"}
    assert "dropped" in row.error
    assert store.size(world.digest_of(b"layer")) is None
    assert Upload.objects.count() == 0
    assert not Tag.objects.exists()


def test_a_mirror_lends_no_blob_that_its_maker_cannot_pull(
    alice: Caller, charlie: Caller, web: Repository, store: BlobStore
) -> None:
    """Upstream names a digest that only somebody else's private repository holds: naming it is not having it."""
    secret = b"charlie's secret layer"
    repositories.create_repository(charlie.actor, "charlie/private")
    world.push_blob(store, "charlie/private", secret)
    raw = world.manifest_of(b"{}", [secret])

    def answer(asked: Asked) -> Says:
        if asked.path.endswith("tags/list?n=1000"):
            return Says(200, {}, b'{"tags": ["v1"]}')
        if "/manifests/v1" in asked.path:
            return Says(200, {"Content-Type": KIND}, raw)
        return Says(200, {}, b"{}") if str(world.digest_of(b"{}")) in asked.path else Says(404)

    with scripted(answer) as site:
        row = mirrors.create_mirror(alice.actor, repository="alice/web", direction="pull", url=site.url, remote_name="a/b")
        run(row)
    assert row.result["failed"].keys() == {"v1"}
    assert not Tag.objects.exists()


_WORKER = """
import django
django.setup()
from tests.integration.registry.running import run_jobs
run_jobs()
"""


def _worker(tmp_path: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "WHARF_DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "WHARF_REGISTRY_EGRESS_ALLOW": "127.0.0.1",
        "WHARF_BLOB_STORE": str(tmp_path / "blobs"),
    }
    return subprocess.Popen([sys.executable, "-c", _WORKER], env=environment)


def test_a_worker_killed_in_the_middle_of_a_pull_leaves_what_the_next_goes_on_with(
    alice: Caller, web: Repository, store: BlobStore, tmp_path: Path
) -> None:
    """Two blobs: killed inside the second one. The next run fetches no byte of the first again."""
    first, second = os.urandom(50_000), os.urandom(50_000)
    raw = world.manifest_of(first, [second])
    workers: list[subprocess.Popen[bytes]] = []

    def answer(asked: Asked) -> Says:
        if asked.path.endswith("tags/list?n=1000"):
            return Says(200, {}, b'{"tags": ["v1"]}')
        if "/manifests/v1" in asked.path:
            return Says(200, {"Content-Type": KIND, "Docker-Content-Digest": str(world.digest_of(raw))}, raw)
        if str(world.digest_of(second)) in asked.path:
            if workers[0].poll() is None:
                workers[0].send_signal(signal.SIGKILL)
                workers[0].wait()
            return Says(200, {}, second)
        return Says(200, {}, first) if str(world.digest_of(first)) in asked.path else Says(404)

    with scripted(answer) as site:
        row = mirrors.create_mirror(alice.actor, repository="alice/web", direction="pull", url=site.url, remote_name="a/b")
        mirrors.run_now(alice.actor, row)
        workers.append(_worker(tmp_path))
        workers[0].wait(60)
        assert workers[0].returncode == -signal.SIGKILL
        assert not Tag.objects.exists()
        lose_workers()
        Upload.objects.update(busy_until=timezone.now() - timedelta(seconds=1))  # the dead one's claim runs out
        run_jobs()
        fetched = [path for path in site.calls("GET") if str(world.digest_of(first)) in path]
    assert Tag.objects.get().manifest.digest == str(world.digest_of(raw))
    assert len(fetched) == 1
    assert Job.objects.get(kind="registry.mirror").state == "done"
    assert Upload.objects.count() == 0


def test_a_fetch_goes_on_where_another_process_stopped(web: Repository, store: BlobStore, monkeypatch: Any) -> None:
    from registry.actions import fetching

    data = os.urandom(5 << 20)
    monkeypatch.setattr(fetching, "CHECKPOINT", 2 << 20)
    asked: list[int] = []

    class Cut(Exception):
        pass

    def source(offset: int) -> Iterator[bytes]:
        asked.append(offset)
        for start in range(offset, len(data), 100_000):
            if len(asked) == 1 and start > 3 << 20:
                raise Cut
            yield data[start : start + 100_000]

    digest = world.digest_of(data)
    with pytest.raises(Cut):
        fetching.fetch(web, digest, len(data), source, "test")
    row = Upload.objects.get(pk=session_of(web.pk, digest))
    assert row.offset >= 2 << 20
    assert fetching.fetch(web, digest, len(data), source, "test")
    assert asked == [0, row.offset]
    assert not fetching.fetch(web, digest, len(data), source, "test")
    opened = store.open(digest)
    assert opened is not None
    assert hashlib.sha256(opened.read_at(0, opened.size)).hexdigest() == digest.hex
    opened.close()


# --- one at a time, by the clock, by whom ---------------------------------------------------------------------------------------


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
