"""What stands in the way of pushes and deletes: immutable tags, the tag limit, what runs, read-only mode."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from registry.actions import leases, manifests, readonly
from registry.actions.policies import create_policy, delete_policy
from registry.actions.repositories import create_repository, delete_repository, update_repository
from registry.errors import ImageInUse, RegistryReadOnly, TagImmutable, TagLimitReached
from registry.models import Manifest, Repository, Tag, TagChange
from registry.storage import open_store
from tests.integration.registry import world

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "library/web"


@pytest.fixture
def web(tmp_path: Path, settings: Any) -> Repository:
    settings.BLOB_STORE = str(tmp_path / "blobs")
    return create_repository(SYSTEM, NAME)


def push(tag: str, number: int, name: str = NAME) -> str:
    config, layer = f"config {number}".encode(), f"layer {number}".encode()
    for blob in (config, layer):
        world.push_blob(open_store(), name, blob)
    return world.push_manifest(name, world.manifest_of(config, [layer]), tag)


def tags(name: str = NAME) -> list[str]:
    return sorted(Tag.objects.filter(repository__full_name=name).values_list("name", flat=True))


def immutable(tags: str, **where: str) -> Any:
    return create_policy(SYSTEM, "immutability", tags=tags, **(where or {"repository": NAME}))


def by_setting(web: Repository) -> None:
    update_repository(SYSTEM, web, None, immutable_tags=True)


def by_rule(web: Repository) -> None:
    immutable("v*")


def by_namespace(web: Repository) -> None:
    immutable("v[0-9]", namespace="library", repositories="we*")


@pytest.mark.parametrize("how", [by_setting, by_rule, by_namespace])
def test_an_immutable_tag_is_neither_overwritten_nor_deleted(web: Repository, how: Callable[[Repository], None]) -> None:
    digest = push("v1", 1)
    how(web)
    assert push("v1", 1) == digest, "the same again is welcome"
    with pytest.raises(TagImmutable, match="tag v1 of library/web cannot be overwritten: it is immutable by the") as refused:
        push("v1", 2)
    assert refused.value.status == 412
    with pytest.raises(TagImmutable, match="cannot be deleted"):
        manifests.delete_tag(SYSTEM, NAME, "v1")
    with pytest.raises(TagImmutable, match="cannot be deleted"):
        manifests.delete_manifest(SYSTEM, NAME, digest)
    with pytest.raises(TagImmutable):
        manifests.delete_tag(SYSTEM, NAME, "v1", force=True)
    assert Tag.objects.get(name="v1").manifest.digest == digest
    push("v2", 3)
    assert tags() == ["v1", "v2"], "new tags are welcome"


def test_only_the_tags_and_repositories_that_a_rule_names(web: Repository) -> None:
    create_repository(SYSTEM, "library/other")
    immutable("v*", namespace="library", repositories="we*")
    push("latest", 1)
    assert push("latest", 2) == Tag.objects.get(name="latest").manifest.digest
    push("v1", 1, "library/other")
    push("v1", 2, "library/other")


def test_a_rule_that_is_gone_or_disabled_holds_nothing(web: Repository) -> None:
    push("v1", 1)
    rule = immutable("v1")
    with pytest.raises(TagImmutable, match=rule.pk):
        push("v1", 2)
    delete_policy(SYSTEM, rule, None)
    push("v1", 2)


def test_the_oldest_tag_makes_room(web: Repository) -> None:
    update_repository(SYSTEM, web, None, tag_limit=2)
    first = push("a", 1)
    push("b", 2)
    push("b", 3)
    assert tags() == ["a", "b"], "an old tag that moves needs no room"
    push("c", 4)
    assert tags() == ["b", "c"]
    assert Event.objects.get(kind="tag.evicted").data["tag"] == "a"
    assert TagChange.objects.filter(tag="a", before=first, after="").exists(), "and can be brought back"


def test_immutable_and_running_tags_are_not_evicted(web: Repository) -> None:
    update_repository(SYSTEM, web, None, tag_limit=3)
    push("v1", 1)
    leases.lease(push("running", 2), "task/1")
    push("plain", 3)
    immutable("v*")
    push("new", 4)
    assert tags() == ["new", "running", "v1"]
    leases.lease(Tag.objects.get(name="new").manifest.digest, "service/2")
    with pytest.raises(TagLimitReached, match="limited to 3 tags, and none of the others may go"):
        push("more", 5)
    assert tags() == ["new", "running", "v1"], "a refused push leaves everything as it was"
    leases.release("task/1")
    push("more", 5)
    assert tags() == ["more", "new", "v1"]


def test_what_runs_is_not_deleted_without_force(web: Repository) -> None:
    digest = push("v1", 1)
    push("v2", 1)
    leases.lease(digest, "service/7")
    manifests.delete_tag(SYSTEM, NAME, "v2")  # v1 still names it
    refusals = [
        lambda: manifests.delete_tag(SYSTEM, NAME, "v1"),
        lambda: manifests.delete_manifest(SYSTEM, NAME, digest),
        lambda: delete_repository(SYSTEM, web),
    ]
    for refused in refusals:
        with pytest.raises(ImageInUse, match="in use by service/7") as error:
            refused()
        assert error.value.status == 409
        assert error.value.extra["holders"] == ["service/7"]
    manifests.delete_tag(SYSTEM, NAME, "v1", force=True)
    manifests.delete_manifest(SYSTEM, NAME, digest, force=True)
    assert not Manifest.objects.exists()


def test_a_lease_that_has_ended_holds_nothing(web: Repository) -> None:
    from django.utils import timezone

    digest = push("v1", 1)
    leases.lease(digest, "task/1", timezone.now() - timedelta(seconds=1))
    manifests.delete_manifest(SYSTEM, NAME, digest)
    assert not Manifest.objects.exists()


def test_read_only(web: Repository) -> None:
    digest = push("v1", 1)
    readonly.enable(SYSTEM, "the store moves house until noon")
    for refused in (
        lambda: manifests.delete_tag(SYSTEM, NAME, "v1"),
        lambda: manifests.delete_manifest(SYSTEM, NAME, digest),
        lambda: delete_repository(SYSTEM, web),
        lambda: create_repository(SYSTEM, "library/more"),
    ):
        with pytest.raises(RegistryReadOnly, match="the store moves house until noon"):
            refused()
    readonly.disable(SYSTEM)
    manifests.delete_tag(SYSTEM, NAME, "v1")
    assert [row.kind for row in Event.objects.filter(kind__startswith="read_only")] == ["read_only.enabled", "read_only.disabled"]
