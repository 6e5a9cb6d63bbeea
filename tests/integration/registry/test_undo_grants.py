"""A deleted repository that comes back brings the rights that were given on it, and gives nobody more than before."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from controlplane.rbac.actions.grants import create_grant
from controlplane.rbac.models import Collection, Grant, Role
from controlplane.users.models import Team
from registry.actions.repositories import create_repository, delete_repository, restore_repository
from registry.models import Repository
from registry.queries import access
from tests.integration.registry.crowd import Crowd, repository

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "harbour/shop/web"


@pytest.fixture(autouse=True)
def web(crowd: Crowd, settings: Any) -> Repository:
    settings.REGISTRY_UNDO_WINDOW = 7 * 86400
    create_repository(SYSTEM, NAME)
    return repository(NAME)


def give(kind: str, subject: str, role: str, path: str = "/Registry/harbour/shop/web/") -> None:
    create_grant(SYSTEM, kind, subject, Role.objects.get(name=role), Collection.objects.get(path=path))


def crane() -> str:
    return Team.objects.get(name="crane").pk


def test_rights_of_teams_and_users_come_back(crowd: Crowd, web: Repository) -> None:
    give("team", crane(), "Registry Read-Write")
    give("user", crowd.cast.charlie.pk, "Registry Read", "/Registry/harbour/shop/")
    crowd.alice.call("delete", f"repositories/{web.pk}", expect=204, **{"If-Match": "*"})
    assert not Grant.objects.filter(collection__path__startswith="/Registry/harbour/shop").exists()
    assert len(Event.objects.get(kind="repository.deleted").data["grants"]) == 2
    given = Event.objects.filter(kind="grant.created").count()
    answer = crowd.alice.call("post", f"deleted-repositories/{web.pk}/restore")
    assert (answer["grants"], answer["grants_left"]) == (2, 0)
    assert access.allowed_actions(crowd.bob.actor, NAME) == {"pull", "push", "delete"}
    assert access.allowed_actions(crowd.charlie.actor, NAME) == {"pull"}
    restored = Event.objects.get(kind="repository.restored")
    assert (restored.actor_name, restored.data["grants"]) == ("alice", 2)
    assert Event.objects.filter(kind="grant.created").count() == given + 2
    assert Repository.objects.get(pk=web.pk).former_grants == []


def test_who_or_what_is_gone_gets_nothing_back(crowd: Crowd, web: Repository) -> None:
    own = Role.objects.create(name="Puller", operations={"Repository": {"View": [], "Pull": []}})
    give("team", crane(), "Registry Read")
    give("user", crowd.cast.charlie.pk, own.name)
    delete_repository(SYSTEM, web)
    own.delete()
    Team.objects.get(name="crane").delete()
    assert restore_repository(SYSTEM, web.pk)[1:] == (0, 2)
    assert access.allowed_actions(crowd.bob.actor, NAME) == frozenset()


def test_a_folder_that_was_made_meanwhile_gets_no_old_grants(crowd: Crowd, web: Repository) -> None:
    give("user", crowd.cast.charlie.pk, "Registry Admin", "/Registry/harbour/shop/")
    give("user", crowd.cast.bob.pk, "Registry Read")
    delete_repository(SYSTEM, web)
    create_repository(SYSTEM, "harbour/shop/new")
    assert restore_repository(SYSTEM, web.pk)[1:] == (1, 1)
    assert access.allowed_actions(crowd.bob.actor, NAME) == {"pull"}
    for name in ("harbour/shop/new", NAME):
        assert access.allowed_actions(crowd.charlie.actor, name) == frozenset()


def test_a_new_repository_of_that_name_inherits_nothing(crowd: Crowd, web: Repository) -> None:
    give("user", crowd.cast.bob.pk, "Registry Read")
    delete_repository(SYSTEM, web)
    create_repository(SYSTEM, NAME)
    assert access.allowed_actions(crowd.bob.actor, NAME) == frozenset()


def test_grants_that_stayed_are_left_as_they_are(crowd: Crowd, web: Repository) -> None:
    """The folder stays while a repository below it does, and what was taken away there meanwhile stays away."""
    create_repository(SYSTEM, f"{NAME}/part")
    give("user", crowd.cast.bob.pk, "Registry Read")
    give("user", crowd.cast.charlie.pk, "Registry Read")
    delete_repository(SYSTEM, web)
    Grant.objects.get(subject_id=crowd.cast.charlie.pk, role__name="Registry Read").delete()
    assert restore_repository(SYSTEM, web.pk)[1:] == (0, 0)
    assert access.allowed_actions(crowd.bob.actor, NAME) == {"pull"}
    assert access.allowed_actions(crowd.charlie.actor, NAME) == frozenset()
