"""Mirrors to Debian's docker-registry: whole images, only what is missing, over breaks."""

from __future__ import annotations

import json
import os

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from controlplane.jobs.models import Job
from registry.actions import manifests, mirror_runs, mirrors, reactions, repositories
from registry.models import Manifest, MirroredTag, Repository
from registry.remote.client import RegistryClient, referrers_tag
from registry.storage.store import BlobStore
from tests.conformance.distribution.anchor import BINARY
from tests.integration.registry import world
from tests.integration.registry.mirroring.acts import INDEX, KIND, bytes_there, image, log_of, mirror, put, run, subject
from tests.integration.registry.running import run_jobs
from tests.integration.registry.scripted import Asked, Says, scripted
from tests.integration.registry.test_remote_client import push_image
from tests.integration.registry.test_rest import Caller
from tests.integration.registry.upstream import Upstream

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(BINARY is None, reason="this machine lacks Debian's docker-registry"),
]


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
