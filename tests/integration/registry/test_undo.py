"""The time machine: what is deleted comes back byte for byte within its window, whatever is collected meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from registry.actions import collect, manifests, runs, trash
from registry.actions.policies import create_policy
from registry.actions.repositories import (
    RepositoryExists,
    create_repository,
    delete_repository,
    forget_repositories,
    forget_repository,
    restore_repository,
)
from registry.errors import ManifestUnknown, RepositoryUnknown, TagImmutable
from registry.models import Blob, Manifest, Repository, RepositoryBlob, Tag
from registry.queries import content, history
from registry.queries.activity import sentence
from registry.storage import open_store
from tests.integration.registry import world
from tests.integration.registry.test_policies import sign
from tests.integration.registry.test_standing import immutable, push, tags

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "library/web"
DAY = 86400
WINDOW = 7 * DAY


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of everything that asks Django for the time."""
    real, offset = timezone.now, timedelta()

    def move(seconds: float) -> None:
        nonlocal offset
        offset += timedelta(seconds=seconds)

    monkeypatch.setattr(timezone, "now", lambda: real() + offset)
    return move


@pytest.fixture(autouse=True)
def web(tmp_path: Path, settings: Any) -> Repository:
    settings.BLOB_STORE = str(tmp_path / "blobs")
    settings.REGISTRY_UNDO_WINDOW = WINDOW
    return create_repository(SYSTEM, NAME)


def gc() -> None:
    for _ in range(2):
        collect.collect(open_store(), grace=0, trash_window=0)


def served(digest: str) -> bytes:
    """The manifest and, behind it, each of its blobs as a client would pull them."""
    row = content.manifest(NAME, digest)
    assert row is not None, f"{digest} is not served"
    blobs = Manifest.objects.get(repository__full_name=NAME, digest=digest).blobs
    for name in blobs.values_list("blob__digest", flat=True):
        assert content.blob(NAME, name) is not None, f"{name} is not served"
    assert world.lost_blobs(open_store()) == []
    return row.content


def test_a_deleted_manifest_comes_back_with_its_tags(web: Repository, later: Callable[[float], None]) -> None:
    digest = push("v1", 1)
    push("v2", 1)
    push("other", 2)
    before = served(digest)
    manifests.delete_manifest(SYSTEM, NAME, digest)
    assert content.manifest(NAME, digest) is None
    assert content.referrers(NAME, digest, "", "", 10) == []
    later(WINDOW - DAY)
    gc()
    assert trash.restore_manifest(SYSTEM, web, digest) == ["v1", "v2"]
    assert served(digest) == before
    assert tags() == ["other", "v1", "v2"]
    gc()
    assert served(digest) == before
    assert Event.objects.get(kind="manifest.restored").data["tags"] == ["v1", "v2"]


def test_after_the_window_it_is_gone_for_good(web: Repository, later: Callable[[float], None]) -> None:
    digest = push("v1", 1)
    manifests.delete_manifest(SYSTEM, NAME, digest)
    later(WINDOW + 60)
    with pytest.raises(ManifestUnknown, match="7 days"):
        trash.restore_manifest(SYSTEM, web, digest)
    gc()
    assert not Blob.objects.exists()
    assert not Manifest.objects.exists()


def test_blobs_of_a_deleted_manifest_can_be_deleted_and_still_come_back(web: Repository) -> None:
    """The conformance order: manifest, then blobs, each gone at once."""
    digest = push("v1", 1)
    before = served(digest)
    blobs = list(Blob.objects.values_list("digest", flat=True))
    manifests.delete_manifest(SYSTEM, NAME, digest)
    from agent.protocol.oci import Digest
    from registry.actions.blobs import delete_blob

    for name in blobs:
        delete_blob(NAME, Digest.parse(name))
        assert content.blob(NAME, name) is None
    gc()
    trash.restore_manifest(SYSTEM, web, digest)
    assert served(digest) == before


def test_deleted_then_pushed_again_then_deleted_again(web: Repository) -> None:
    digest = push("v1", 1)
    manifests.delete_manifest(SYSTEM, NAME, digest)
    assert push("v1", 1) == digest
    manifests.delete_manifest(SYSTEM, NAME, digest)
    gc()
    trash.restore_manifest(SYSTEM, web, digest)
    served(digest)
    assert Manifest.objects.count() == 1


def test_a_tag_goes_back_to_any_digest_it_had(web: Repository) -> None:
    first, second = push("v1", 1), push("v1", 2)
    third = push("v1", 3)
    manifests.delete_manifest(SYSTEM, NAME, third)
    assert tags() == []
    gc()
    for digest, before in ((first, ""), (third, first), (second, third)):
        assert trash.restore_tag(SYSTEM, web, "v1", digest) == before
        assert Tag.objects.get().manifest.digest == digest
        served(digest)
    with pytest.raises(ManifestUnknown):
        trash.restore_tag(SYSTEM, web, "v1", "sha256:" + "0" * 64)
    immutable("v1")
    with pytest.raises(TagImmutable):
        trash.restore_tag(SYSTEM, web, "v1", first)


def test_what_the_tags_were_at_any_moment(web: Repository, later: Callable[[float], None]) -> None:
    moments: list[tuple[datetime, dict[str, str]]] = []

    def remember() -> None:
        later(1)
        moments.append((timezone.now(), dict(Tag.objects.values_list("name", "manifest__digest"))))
        later(1)

    remember()
    push("v1", 1)
    remember()
    push("latest", 1)
    push("v1", 2)
    remember()
    manifests.delete_tag(SYSTEM, NAME, "latest")
    remember()
    manifests.delete_manifest(SYSTEM, NAME, Tag.objects.get(name="v1").manifest.digest)
    remember()
    push("latest", 3)
    remember()
    for at, state in moments:
        assert history.tags_at(web, at) == state


def test_what_a_policy_removed_comes_back_with_referrers(web: Repository) -> None:
    digest = push("v1", 1)
    signature = sign(NAME, digest)
    before = served(digest), served(signature)
    policy = create_policy(SYSTEM, "pruning", repository=NAME, rules=[{"field": "tag", "operator": "equals", "values": ["v1"]}])
    runs.run(policy, lambda *_: None)
    assert not Manifest.objects.filter(repository=web).exists()
    gc()
    assert trash.restore_manifest(SYSTEM, web, digest) == ["v1"]
    assert (served(digest), served(signature)) == before
    assert [row["digest"] for row in content.referrers(NAME, digest, "", "", 10)] == [signature]


def test_a_deleted_repository_comes_back_whole(web: Repository, later: Callable[[float], None]) -> None:
    digest = push("v1", 1)
    gone = push("old", 2)
    manifests.delete_manifest(SYSTEM, NAME, gone)
    signature = sign(NAME, digest)
    before = served(digest), served(signature)
    delete_repository(SYSTEM, web)
    assert not Repository.objects.filter(full_name=NAME).exists()
    assert content.manifest(NAME, digest) is None
    later(WINDOW - DAY)
    gc()
    forget_repositories(trash.window_start())
    back, _, _ = restore_repository(SYSTEM, web.pk)
    assert back.full_name == NAME
    assert back.collection.path == "/Registry/library/web/"
    assert (served(digest), served(signature)) == before
    assert tags() == ["v1"]
    assert Event.objects.filter(kind="repository.restored").count() == 1


def test_a_name_that_is_taken_again_waits(web: Repository) -> None:
    push("v1", 1)
    delete_repository(SYSTEM, web)
    new = create_repository(SYSTEM, NAME)
    with pytest.raises(RepositoryExists):
        restore_repository(SYSTEM, web.pk)
    delete_repository(SYSTEM, new)
    restore_repository(SYSTEM, web.pk)
    assert tags() == ["v1"]


def test_a_repository_that_is_forgotten_frees_its_blobs(web: Repository, later: Callable[[float], None]) -> None:
    push("v1", 1)
    manifests.delete_manifest(SYSTEM, NAME, push("old", 2))
    delete_repository(SYSTEM, web)
    assert forget_repositories(trash.window_start()) == 0
    forget_repository(SYSTEM, web.pk)
    with pytest.raises(RepositoryUnknown):
        restore_repository(SYSTEM, web.pk)
    gc()
    assert not Blob.objects.exists()
    assert not RepositoryBlob.objects.exists()
    assert not Repository.everything.exists()


def test_the_end_of_the_window_of_one_repository(web: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "BATCH", 2)
    gone = [push("v1", count) for count in range(3)]
    for digest in gone:
        manifests.delete_manifest(SYSTEM, NAME, digest)
    other = create_repository(SYSTEM, "library/other")
    assert trash.forget_now(SYSTEM, other) == 0
    assert trash.forget_now(SYSTEM, web) == 3
    for digest in gone:
        with pytest.raises(ManifestUnknown):
            trash.restore_manifest(SYSTEM, web, digest)
    told = Event.objects.filter(kind="manifest.forgotten").order_by("id")
    assert [(event.target, len(event.data["digests"])) for event in told] == [
        (f"repository/{web.pk}", 2),
        (f"repository/{web.pk}", 1),
    ]
    assert {digest for event in told for digest in event.data["digests"]} == set(gone)
    assert sentence(told[0]) == "forgot 2 deleted images for good"
