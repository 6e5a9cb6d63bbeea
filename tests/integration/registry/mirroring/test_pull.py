"""Mirrors from Debian's docker-registry: tags, children and signatures, checked, over kills."""

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

from controlplane.events.models import Event
from controlplane.jobs.models import Job
from registry.actions import manifests, mirrors, repositories
from registry.actions.fetching import session_of
from registry.actions.filled import TargetReadOnly
from registry.actions.uploads import open_upload
from registry.models import Manifest, Repository, Tag, Upload
from registry.remote.client import RegistryClient, referrers_tag
from registry.storage.store import BlobStore
from tests.conformance.distribution.anchor import BINARY
from tests.integration.registry import world
from tests.integration.registry.mirroring.acts import INDEX, KIND, log_of, mirror, run
from tests.integration.registry.running import database_url, lose_workers, run_jobs
from tests.integration.registry.scripted import Asked, Says, scripted
from tests.integration.registry.test_remote_client import push_image
from tests.integration.registry.test_rest import Caller
from tests.integration.registry.upstream import Upstream

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(BINARY is None, reason="this machine lacks Debian's docker-registry"),
]


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
