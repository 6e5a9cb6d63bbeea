"""What a service names and a node runs stays in the registry, whatever users and collectors do; what nobody uses becomes free."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from agent.protocol.messages import ContainerInfo, Contents
from agent.protocol.oci import MEDIA_OCI_INDEX, MEDIA_OCI_MANIFEST
from agent.protocol.spec import ContainerSpec, FailureAction, ServiceSpec, UpdateConfig
from controlplane.api.actor import SYSTEM
from nodes import actions
from nodes.actions import service as writing
from nodes.models import Container, Service
from registry.actions import collect, images, leases, manifests, repositories
from registry.errors import ImageInUse, ManifestUnknown, RepositoryUnknown, TagLimitReached
from registry.models import Lease, Manifest, Repository
from registry.queries import standing
from registry.queries.holders import held_by, holders
from registry.storage.filesystem import FilesystemStore
from tests.integration.nodes import fleet
from tests.integration.nodes.test_jobs import carry_out
from tests.integration.nodes.test_races import together
from tests.integration.registry import world

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "admin/shop"


@pytest.fixture(autouse=True)
def no_undo(settings: Any) -> None:
    """What is deleted is gone at once."""
    settings.REGISTRY_UNDO_WINDOW = 0
    standing.forget()


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(str(tmp_path / "blobs"))


@pytest.fixture
def admin() -> fleet.Actor:
    return fleet.user("root", admin=True)


def push(store: FilesystemStore, tag: str) -> str:
    """An image of its own under `tag`; its digest."""
    config, layer = f"config {tag}".encode(), f"layer {tag}".encode()
    for data in (config, layer):
        world.push_blob(store, NAME, data)
    return world.push_manifest(NAME, world.manifest_of(config, [layer]), tag)


def push_index(tag: str, child: str) -> str:
    row = Manifest.objects.get(repository__full_name=NAME, digest=child)
    entry = {"mediaType": MEDIA_OCI_MANIFEST, "digest": child, "size": row.size}
    body = {"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": [entry], "annotations": {"tag": tag}}
    return world.push_manifest(NAME, json.dumps(body).encode(), tag)


def shop(tag: str, **fields: Any) -> ServiceSpec:
    return ServiceSpec(name="shop", container=ContainerSpec(image=f"{NAME}:{tag}"), **fields)


def delete(digest: str, *, force: bool = False) -> None:
    manifests.delete_manifest(SYSTEM, NAME, digest, force=force)


def held(service: Service) -> set[str]:
    return {digest for holder, digest in held_by("service") if holder == f"service/{service.pk}"}


def test_an_image_that_a_service_names_is_deleted_with_force_only(store: FilesystemStore, admin: fleet.Actor) -> None:
    digest = push(store, "1")
    service = actions.create_service(admin, shop("1"))
    with pytest.raises(ImageInUse, match="in use by service shop: stop") as refused:
        manifests.delete_manifest(admin, NAME, digest)
    assert refused.value.extra["holders"] == [f"service/{service.pk}"]
    with pytest.raises(ImageInUse):
        manifests.delete_tag(SYSTEM, NAME, "1")
    with pytest.raises(ImageInUse, match=f"in use by service/{service.pk}: stop"):
        manifests.delete_manifest(fleet.user("stranger"), NAME, digest)
    with pytest.raises(ImageInUse):
        repositories.delete_repository(SYSTEM, Repository.objects.get(full_name=NAME))
    delete(digest, force=True)
    assert not Manifest.objects.filter(digest=digest).exists()


def test_the_collector_keeps_what_a_service_names(store: FilesystemStore, admin: fleet.Actor) -> None:
    digest, loose = push(store, "1"), push(store, "2")
    actions.create_service(admin, shop("1"))
    for gone in (digest, loose):
        delete(gone, force=True)
    collect.collect(store, grace=0, trash_window=0)
    assert store.size(world.digest_of(b"layer 2")) is None
    assert store.size(world.digest_of(b"layer 1")) is not None
    assert store.size(world.digest_of(b"config 1")) is not None


def test_policies_and_the_tag_limit_leave_what_a_service_names(store: FilesystemStore, admin: fleet.Actor) -> None:
    digest = push(store, "1")
    actions.create_service(admin, shop("1"))
    repository = Repository.objects.get(full_name=NAME)
    with pytest.raises(ImageInUse):
        images.remove_tag(SYSTEM, repository, "1", digest)
    Repository.objects.filter(pk=repository.pk).update(tag_limit=1)
    with pytest.raises(TagLimitReached):
        push(store, "2")
    manifests.delete_tag(SYSTEM, NAME, "1", force=True)
    with pytest.raises(ImageInUse):
        images.remove_untagged(SYSTEM, repository, digest)
    collect.collect(store, grace=0, trash_window=0)
    assert world.lost_blobs(store) == []


def test_after_an_update_the_old_image_is_free_when_its_tasks_have_ended(store: FilesystemStore, admin: fleet.Actor) -> None:
    one, two, three = (push(store, tag) for tag in "123")
    fleet.node("n1")
    service = actions.create_service(admin, shop("1"))
    fleet.obey()
    for tag in "23":
        service = actions.update_service(admin, service, shop(tag), expected=None)
    actions.sync_leases()
    assert held(service) == {one, two, three}, "a task runs 1, a rollback returns to 2"
    fleet.obey()
    actions.sync_leases()
    assert held(service) == {two, three}
    delete(one)
    with pytest.raises(ImageInUse):
        delete(two)


def test_a_rollback_frees_what_it_left(store: FilesystemStore, admin: fleet.Actor) -> None:
    one, two = push(store, "1"), push(store, "2")
    fleet.node("n1")
    quick = UpdateConfig(monitor=1e-6, failure_action=FailureAction.PAUSE)
    service = actions.create_service(admin, shop("1", update=quick, rollback=quick))
    fleet.obey()
    service = actions.update_service(admin, service, shop("2", update=quick, rollback=quick), expected=None)
    fleet.obey()
    actions.sync_leases()
    assert held(service) == {one, two}
    service = actions.roll_back(admin, service)
    actions.sync_leases()
    assert held(service) == {one, two}, "its tasks still run"
    fleet.obey()
    actions.sync_leases()
    assert held(service) == {one}


def test_a_removed_service_frees_its_image_after_its_tasks(store: FilesystemStore, admin: fleet.Actor) -> None:
    digest = push(store, "1")
    fleet.node("n1")
    service = actions.create_service(admin, shop("1"))
    fleet.obey()
    actions.remove_service(admin, service)
    actions.sync_leases()
    assert held(service) == {digest}, "a task runs"
    fleet.obey()
    actions.sync_leases()
    assert not Lease.objects.exists()
    delete(digest)


def test_the_job_leases_what_is_missing_and_then_rests(store: FilesystemStore, admin: fleet.Actor) -> None:
    digest = push(store, "1")
    service = actions.create_service(admin, shop("1"))
    before = set(Lease.objects.values_list("holder", "root", "digest"))
    Lease.objects.all().delete()  # as services of an earlier release stand there
    assert carry_out("nodes.leases").result == {"leased": 1, "released": 0}
    assert set(Lease.objects.values_list("holder", "root", "digest")) == before
    Lease.objects.exclude(digest=digest).delete()
    assert carry_out("nodes.leases").result == {"leased": 1, "released": 0}, "its parts"
    assert set(Lease.objects.values_list("holder", "root", "digest")) == before
    assert carry_out("nodes.leases").result == {"leased": 0, "released": 0}
    assert holders(NAME, [digest]) == {digest: [f"service/{service.pk}"]}


def test_the_same_image_elsewhere_is_its_owners_to_delete(store: FilesystemStore, admin: fleet.Actor) -> None:
    digest = push(store, "1")
    other = "admin/copy"
    for data in (b"config 1", b"layer 1"):
        world.push_blob(store, other, data)
    assert world.push_manifest(other, world.manifest_of(b"config 1", [b"layer 1"]), "1") == digest
    actions.create_service(admin, shop("1"))
    manifests.delete_manifest(SYSTEM, other, digest)
    repositories.delete_repository(SYSTEM, Repository.objects.get(full_name=other))
    with pytest.raises(ImageInUse):
        delete(digest)
    Lease.objects.all().delete()
    actions.sync_leases()
    with pytest.raises(ImageInUse):
        delete(digest)


def test_an_index_keeps_its_images(store: FilesystemStore, admin: fleet.Actor) -> None:
    child = push(store, "amd64")
    index = push_index("all", child)
    actions.create_service(admin, shop("all"))
    for digest in (index, child):
        with pytest.raises(ImageInUse):
            delete(digest)
    assert set(holders(NAME, [index, child, str(world.digest_of(b"layer amd64"))])) == {
        index,
        child,
        str(world.digest_of(b"layer amd64")),
    }


def test_a_container_by_hand_holds_its_image_from_its_order_to_its_end(store: FilesystemStore, admin: fleet.Actor) -> None:
    digest = push(store, "1")
    node = fleet.node("n1")
    action = actions.create_container(admin, node, ContainerSpec(image=f"{NAME}:1"))
    assert holders(NAME, [digest]) == {digest: [f"action/{action.pk}"]}
    info = ContainerInfo("c1", "tool", action.args["spec"]["image"], "", "running", 1.0)
    foreign = dataclasses.replace(info, id="c2", image=f"registry.example/{NAME}@{digest}")
    actions.record_contents(node.pk, Contents(node.epoch, (info, foreign), ()))
    actions.sync_leases()
    container = f"container/{Container.objects.get(container_id='c1').pk}"
    assert holders(NAME, [digest]) == {digest: [f"action/{action.pk}", container]}
    Lease.objects.filter(holder__startswith="action/").update(expires_at=timezone.now())
    actions.sync_leases()
    assert set(Lease.objects.values_list("holder", flat=True)) == {container}
    actions.record_contents(node.pk, Contents(node.epoch, (dataclasses.replace(info, state="exited"),), ()))
    actions.sync_leases()
    assert not Lease.objects.exists()


def test_what_is_used_again_at_the_last_moment_is_not_released(
    store: FilesystemStore, admin: fleet.Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, three = (push(store, tag) for tag in "123")
    service = actions.create_service(admin, shop("1"))
    for tag in "23":
        service = actions.update_service(admin, service, shop(tag), expected=None)
    release = leases.release

    def late(holder: str, digest: str = "", **options: Any) -> int:
        actions.update_service(admin, service, shop("1"), expected=None)
        return release(holder, digest, **options)

    monkeypatch.setattr(leases, "release", late)
    assert actions.sync_leases().released == 0
    assert held(service) >= {one, three}


def test_an_image_deleted_after_it_was_resolved_makes_no_service(
    store: FilesystemStore, admin: fleet.Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = push(store, "1")
    pin = writing.pin

    def slow(*arguments: Any) -> Any:
        found = pin(*arguments)
        delete(digest)
        return found

    monkeypatch.setattr(writing, "pin", slow)
    with pytest.raises(ManifestUnknown, match="deleted from admin/shop just now"):
        actions.create_service(admin, shop("1"))
    assert not Service.objects.exists()
    assert not Lease.objects.exists()


@pytest.mark.parametrize("what", ["image", "index", "repository"])
def test_a_delete_waits_for_a_service_that_is_being_made(
    store: FilesystemStore, admin: fleet.Actor, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    digest = push(store, "1")
    if what == "index":
        digest = push_index("1", digest)
    leased, deleted = threading.Event(), threading.Event()
    record = writing._record
    early: list[bool] = []

    def slow(*arguments: Any) -> None:
        leased.set()
        early.append(deleted.wait(0.5))
        record(*arguments)

    monkeypatch.setattr(writing, "_record", slow)

    def remove() -> None:
        assert leased.wait(20)
        try:
            if what == "repository":
                repositories.delete_repository(SYSTEM, Repository.objects.get(full_name=NAME))
            else:
                delete(digest)
        finally:
            deleted.set()

    made, refused = together(lambda: actions.create_service(admin, shop("1")), remove)
    assert early == [False], "it did not wait"
    assert isinstance(made, Service), made
    assert isinstance(refused, ImageInUse), refused


@pytest.mark.parametrize("what", ["image", "index", "repository"])
def test_of_a_service_and_a_delete_at_once_one_wins(store: FilesystemStore, admin: fleet.Actor, what: str) -> None:
    for _ in range(6):
        digest = push(store, "1")
        if what == "index":
            digest = push_index("1", digest)

        def remove(digest: str = digest) -> None:
            if what == "repository":
                repositories.delete_repository(SYSTEM, Repository.objects.get(full_name=NAME))
            else:
                delete(digest)

        made, refused = together(lambda: actions.create_service(admin, shop("1")), remove)
        if isinstance(made, Service):
            assert isinstance(refused, ImageInUse), refused
            assert Manifest.objects.filter(repository__full_name=NAME, digest=digest).exists()
            actions.remove_service(admin, made)
            fleet.obey()
            actions.sync_leases()
        else:
            assert isinstance(made, ManifestUnknown | RepositoryUnknown), made
            assert refused is None, refused
            assert not Service.objects.exists()
        assert not Lease.objects.exists()
