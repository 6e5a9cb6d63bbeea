"""/api/v1/repositories, with Django's client: who sees what, what is shown, what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.api.actor import SYSTEM, actor_of_user
from controlplane.events.models import Event
from controlplane.users import actions as users
from controlplane.users.models import User
from registry import queries
from registry.actions import repositories
from registry.errors import ManifestUnknown, RepositoryUnknown
from registry.models import Manifest, Repository, Tag
from registry.queries import NotOurs
from registry.storage import open_store
from tests.integration.registry import world
from tests.integration.registry.rest import PASSWORD, Caller

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def store(tmp_path: Path, settings: Any) -> Any:
    settings.BLOB_STORE = str(tmp_path / "blobs")
    return open_store()


@pytest.fixture
def alice() -> Caller:
    return Caller(users.create_user(SYSTEM, "alice", PASSWORD))


@pytest.fixture
def charlie() -> Caller:
    return Caller(users.create_user(SYSTEM, "charlie", PASSWORD))


@pytest.fixture
def web(alice: Caller, store: Any) -> dict[str, Any]:
    """alice/web with an image at v1 and latest, as REST shows it."""
    made = alice.call("post", "repositories", {"name": "alice/web", "description": "the shop"}, expect=201)
    config = (
        b'{"os":"linux","architecture":"arm64","author":"a","config":{"Cmd":["nginx"],"Labels":{"a":"b"}},'
        b'"history":[{"created_by":"ADD rootfs"},{"created_by":"ENV x=1","empty_layer":true},{"created_by":"COPY site"}]}'
    )
    for blob in (config, b"layer one", b"layer two"):
        world.push_blob(store, "alice/web", blob)
    from agent.protocol.oci import parse_manifest
    from registry.actions.manifests import put_manifest
    from registry.details import platforms_of

    document = parse_manifest(world.manifest_of(config, [b"layer one", b"layer two"]))
    put_manifest(alice.actor, "alice/web", document, document.digest(), ["v1", "latest"], platforms_of(document))
    return made


def test_create_shows_version_location_and_event(alice: Caller, store: Any) -> None:
    made = alice.call("post", "repositories", {"name": "alice/shop/front", "visibility": "public"}, expect=201)
    assert alice.headers["ETag"] == '"v1"'
    assert alice.headers["Location"] == f"/api/v1/repositories/{made['id']}"
    assert made["namespace"] == "alice"
    assert made["collection"] == "/Registry/alice/shop/front/"
    assert Event.objects.filter(kind="repository.created", target=f"repository/{made['id']}", actor_name="alice").exists()
    alice.call("post", "repositories", {"name": "alice/shop/front"}, expect=409)
    alice.call("post", "repositories", {"name": "Alice/Bad"}, expect=400)
    alice.call("post", "repositories", {"name": "charlie/x"}, expect=403)
    alice.call("post", "repositories", {"name": "alice/x", "colour": "blue"}, expect=400)


def test_private_repositories_are_not_there_for_strangers(alice: Caller, charlie: Caller, web: dict[str, Any]) -> None:
    path = f"repositories/{web['id']}"
    assert [row["name"] for row in alice.call("get", "repositories")] == ["alice/web"]
    assert charlie.call("get", "repositories") == []
    for suffix in ("", "/tags", "/history", "/manifests/v1"):
        charlie.call("get", path + suffix, expect=404)
    charlie.call("patch", path, {"visibility": "public"}, expect=404, **{"If-Match": "*"})
    charlie.call("delete", path, expect=404, **{"If-Match": "*"})
    charlie.call("delete", f"{path}/tags/v1", expect=404)


def test_public_repositories_are_read_by_all_and_written_by_owners(alice: Caller, charlie: Caller, web: dict[str, Any]) -> None:
    path = f"repositories/{web['id']}"
    alice.call("patch", path, {"visibility": "public"}, **{"If-Match": '"v1"'})
    assert alice.headers["ETag"] == '"v2"'
    assert [row["name"] for row in charlie.call("get", "repositories")] == ["alice/web"]
    assert Client().get("/api/v1/repositories").json()[0]["name"] == "alice/web", "also without an account"
    charlie.call("get", f"{path}/manifests/v1")
    charlie.call("delete", f"{path}/tags/v1", expect=403)
    charlie.call("patch", path, {"description": "mine now"}, expect=403, **{"If-Match": "*"})


def test_stale_writes_are_refused(alice: Caller, web: dict[str, Any]) -> None:
    path = f"repositories/{web['id']}"
    alice.call("patch", path, {"description": "x"}, expect=428)
    alice.call("patch", path, {"description": "x"}, **{"If-Match": '"v1"'})
    alice.call("patch", path, {"description": "y"}, expect=412, **{"If-Match": '"v1"'})
    alice.call("delete", path, expect=412, **{"If-Match": '"v1"'})


def test_filters(alice: Caller, web: dict[str, Any]) -> None:
    alice.call("post", "repositories", {"name": "alice/api"}, expect=201)
    names = lambda query: [row["name"] for row in alice.call("get", f"repositories?{query}")]  # noqa: E731  # a line a case
    assert names("q=we") == ["alice/web"]
    assert names("name=alice/api") == ["alice/api"]
    assert names("namespace=alice") == ["alice/api", "alice/web"]
    assert names("visibility=public") == []
    alice.call("get", "repositories?colour=blue", expect=400)


def test_tags_and_their_history(alice: Caller, web: dict[str, Any]) -> None:
    path = f"repositories/{web['id']}"
    tags = {row["name"]: row for row in alice.call("get", f"{path}/tags")}
    assert set(tags) == {"v1", "latest"}
    assert tags["v1"]["platforms"] == ["linux/arm64"]
    assert tags["v1"]["pushed_by"] == "alice"
    assert tags["v1"]["size"] > len(b"layer one") + len(b"layer two")
    alice.call("delete", f"{path}/tags/latest", expect=204)
    alice.call("delete", f"{path}/tags/latest", expect=404)
    assert [row["name"] for row in alice.call("get", f"{path}/tags")] == ["v1"]
    moves = alice.call("get", f"{path}/history")
    assert (moves[0]["tag"], bool(moves[0]["before"]), moves[0]["after"]) == ("latest", True, "")
    assert len(moves) == 3
    assert Event.objects.filter(kind="tag.deleted", actor_name="alice").count() == 1
    assert Manifest.objects.count() == 1, "the manifest stays"


def test_manifest_details(alice: Caller, web: dict[str, Any]) -> None:
    path = f"repositories/{web['id']}/manifests"
    shown = alice.call("get", f"{path}/v1")
    assert shown == alice.call("get", f"{path}/{shown['digest']}")
    assert shown["config"] == {"Cmd": ["nginx"], "Labels": {"a": "b"}}
    assert shown["tags"] == ["latest", "v1"]
    assert [step["created_by"] for step in shown["history"]] == ["ADD rootfs", "ENV x=1", "COPY site"]
    assert [bool(step["digest"]) for step in shown["history"]] == [True, False, True]
    assert shown["history"][2]["digest"] == shown["layers"][1]["digest"]
    alice.call("get", f"{path}/nothere", expect=404)
    alice.call("delete", f"{path}/{shown['digest']}", expect=204)
    assert not Tag.objects.exists()


def test_delete_leaves_no_grants_for_a_later_repository_of_that_name(alice: Caller, web: dict[str, Any]) -> None:
    from controlplane.rbac.models import Collection, Grant, Role

    collection = Repository.objects.get(full_name="alice/web").collection
    role = Role.objects.get(name="Registry Read")
    Grant.objects.create(subject_kind="user", subject_id=User.objects.get(username="alice").pk, role=role, collection=collection)
    alice.call("delete", f"repositories/{web['id']}", expect=204, **{"If-Match": '"v1"'})
    assert not Collection.objects.filter(path="/Registry/alice/web/").exists()
    assert not Grant.objects.filter(collection_id=collection.pk).exists()
    assert Event.objects.filter(kind="repository.deleted").count() == 1


def test_pin(alice: Caller, charlie: Caller, web: dict[str, Any], settings: Any) -> None:
    settings.HOSTNAMES = ["wharf.example.com"]
    digest = Manifest.objects.get().digest
    for text in ("alice/web:v1", "wharf.example.com/alice/web:v1", "wharf.example.com:8443/alice/web:v1"):
        found = queries.pin(text, alice.actor)
        assert (found.digest, found.reference) == (digest, f"alice/web:v1@{digest}")
    assert queries.pin("alice/web", alice.actor).reference == f"alice/web:latest@{digest}"
    assert queries.pin(f"alice/web@{digest}", alice.actor).reference == f"alice/web@{digest}"
    assert queries.pin("alice/web:v1", alice.actor).size == Manifest.objects.get().total_size
    with pytest.raises(NotOurs):
        queries.pin("registry.example.org/alice/web:v1", alice.actor)
    with pytest.raises(ManifestUnknown):
        queries.pin("alice/web:v9", alice.actor)
    with pytest.raises(RepositoryUnknown):
        queries.pin("alice/none:v1", alice.actor)
    with pytest.raises(Exception, match="no such repository"):
        queries.pin("alice/web:v1", charlie.actor)


def test_namespaces_of_organisations_belong_to_their_owners(alice: Caller, charlie: Caller) -> None:
    acme = users.create_organisation(SYSTEM, "acme", owner=User.objects.get(username="alice"))
    users.add_member(SYSTEM, acme, User.objects.get(username="charlie"))
    made = alice.call("post", "repositories", {"name": "acme/web"}, expect=201)
    charlie.call("post", "repositories", {"name": "acme/other"}, expect=403)
    charlie.call("get", f"repositories/{made['id']}", expect=404)
    admin = users.create_user(SYSTEM, "root", PASSWORD, is_admin=True)
    repositories.create_namespace(actor_of_user(admin), "library")
    with pytest.raises(Exception, match="only administrators"):
        repositories.create_namespace(alice.actor, "mine")
