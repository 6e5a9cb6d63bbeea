"""Rights in one repository: shown with their reason, given and taken by those who hold them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol.errors import Conflict, Denied, NotFound
from controlplane.api.actor import SYSTEM, actor_of_user
from controlplane.events.models import Event
from controlplane.rbac.actions.grants import create_grant
from controlplane.rbac.models import Grant, Role
from controlplane.users import actions as users
from registry.actions.access import give, take
from registry.actions.repositories import create_repository, update_repository
from registry.actions.robots import create_robot
from registry.queries import access, sharing
from registry.queries.explaining import explained
from tests.integration.registry.crowd import Crowd, repository

pytestmark = pytest.mark.django_db
ADMIN = "Registry Admin"


@pytest.fixture(autouse=True)
def web(crowd: Crowd) -> None:
    create_repository(SYSTEM, "harbour/web")
    create_repository(SYSTEM, "harbour/base")


def actions_of(crowd: Crowd, name: str, full_name: str = "harbour/web") -> frozenset[str]:
    return access.allowed_actions(getattr(crowd, name).actor, full_name)


@pytest.mark.parametrize(
    ("level", "may"),
    [("read", {"pull"}), ("read-write", {"pull", "push", "delete"}), ("admin", {"pull", "push", "delete"})],
)
def test_a_team_gets_a_level_and_loses_it_at_once(crowd: Crowd, level: str, may: set[str]) -> None:
    assert actions_of(crowd, "bob") == frozenset()
    grant = give(crowd.alice.actor, repository("harbour/web"), "team", "harbour/crane", level)
    assert actions_of(crowd, "bob") == may
    assert actions_of(crowd, "bob", "harbour/base") == frozenset(), "that repository alone"
    shown = [right for right in sharing.rights(repository("harbour/web")) if right.kind == "team"]
    assert [(right.who, right.level, right.removable) for right in shown] == [("harbour/crane", level, True)]
    with pytest.raises(Conflict):
        give(crowd.alice.actor, repository("harbour/web"), "team", "harbour/crane", level)
    take(crowd.alice.actor, repository("harbour/web"), grant.pk)
    assert actions_of(crowd, "bob") == frozenset()
    kinds = list(Event.objects.filter(kind__startswith="grant.", target=f"grant/{grant.pk}").values_list("kind", flat=True))
    assert kinds == ["grant.created", "grant.deleted"]


def test_a_right_on_the_namespace_reaches_what_is_made_later(crowd: Crowd) -> None:
    give(crowd.alice.actor, repository("harbour/web"), "user", "charlie", "read", whole_namespace=True)
    create_repository(SYSTEM, "harbour/later")
    assert actions_of(crowd, "charlie", "harbour/later") == {"pull"}
    right = next(right for right in sharing.rights(repository("harbour/later")) if right.who == "charlie")
    assert (right.path, right.removable) == ("/Registry/harbour/", True)


def test_only_who_holds_access_gives_and_takes(crowd: Crowd) -> None:
    grant = give(crowd.alice.actor, repository("harbour/web"), "team", "harbour/crane", "read-write")
    for actor in (crowd.bob.actor, crowd.charlie.actor):
        with pytest.raises(Denied):
            give(actor, repository("harbour/web"), "user", "charlie", "read")
        with pytest.raises(Denied):
            take(actor, repository("harbour/web"), grant.pk)
    give(crowd.alice.actor, repository("harbour/web"), "user", "bob", "admin")
    give(crowd.bob.actor, repository("harbour/web"), "user", "charlie", "read")
    with pytest.raises(Denied):
        give(crowd.bob.actor, repository("harbour/web"), "user", "charlie", "read", whole_namespace=True)


def test_nobody_gives_more_than_they_hold(crowd: Crowd) -> None:
    keeper = Role.objects.create(name="Doorkeeper", operations={"Repository": {"View": [], "Pull": [], "Access": []}})
    create_grant(SYSTEM, "user", crowd.cast.bob.pk, keeper, repository("harbour/web").collection)
    give(crowd.bob.actor, repository("harbour/web"), "user", "charlie", "read")
    with pytest.raises(Denied) as refused:
        give(crowd.bob.actor, repository("harbour/web"), "user", "charlie", "read-write")
    assert "yourself" in refused.value.detail


@pytest.mark.parametrize("role", ["Full Control", "Restricted Control", "View Only"])
def test_a_role_about_more_than_repositories_is_an_administrators_to_give(crowd: Crowd, role: str) -> None:
    with pytest.raises(Denied):
        give(crowd.alice.actor, repository("harbour/web"), "user", "bob", role)
    grant = give(crowd.admin.actor, repository("harbour/web"), "user", "bob", role)
    with pytest.raises(Denied):
        take(crowd.alice.actor, repository("harbour/web"), grant.pk)
    take(crowd.admin.actor, repository("harbour/web"), grant.pk)


def test_a_token_gives_no_more_than_its_scopes(crowd: Crowd) -> None:
    narrow = actor_of_user(crowd.cast.admin, scopes=frozenset({"Repository View", "Repository Pull", "Repository Access"}))
    give(narrow, repository("harbour/web"), "user", "charlie", "read")
    with pytest.raises(Denied):
        give(narrow, repository("harbour/web"), "user", "charlie", "admin")


def test_what_stands_higher_up_is_shown_but_not_taken_here(crowd: Crowd) -> None:
    above = repository("harbour/web").namespace.collection.parent
    assert above is not None
    grant = create_grant(SYSTEM, "user", crowd.cast.charlie.pk, Role.objects.get(name="Registry Read"), above)
    right = next(right for right in sharing.rights(repository("harbour/web")) if right.who == "charlie")
    assert (right.path, right.removable) == ("/Registry/", False)
    with pytest.raises(NotFound):
        take(crowd.alice.actor, repository("harbour/web"), grant.pk)
    other = give(crowd.alice.actor, repository("harbour/base"), "user", "charlie", "read")
    with pytest.raises(NotFound):
        take(crowd.alice.actor, repository("harbour/web"), other.pk)
    assert Grant.objects.filter(pk=other.pk).exists()


def test_every_reason_is_listed_and_agrees_with_the_engine(crowd: Crowd) -> None:
    web = update_repository(crowd.alice.actor, repository("harbour/web"), None, visibility="public")
    users.create_team(SYSTEM, crowd.cast.harbour, "quay")
    give(crowd.alice.actor, web, "org", "harbour", "read")
    give(crowd.alice.actor, web, "team", "harbour/quay", "admin")
    rights = [{"repositories": "harbour/w*", "actions": ["pull", "push"]}]
    create_robot(crowd.alice.actor, "ci", namespace="harbour", rights=rights)
    create_robot(crowd.alice.actor, "other", namespace="harbour", rights=[{"repositories": "harbour/base", "actions": ["pull"]}])
    found = {(right.kind, right.who): right for right in sharing.rights(repository("harbour/web"))}
    assert set(found) == {
        ("admins", "administrators"),
        ("user", "alice"),
        ("everybody", "everybody"),
        ("org", "harbour"),
        ("team", "harbour/quay"),
        ("robot", "harbour+ci"),
    }
    assert found["user", "alice"].why == "Owner of the organisation harbour."
    answers = {answer.operation: answer for answer in explained(repository("harbour/web"), "user", "bob")}
    assert answers["Repository Pull"].allowed
    assert not answers["Repository Push"].allowed
    assert "Repository Push" in answers["Repository Push"].reason
    assert all(answer.allowed for answer in explained(repository("harbour/web"), "user", "alice"))


def test_rest_and_strangers(crowd: Crowd) -> None:
    path = f"repositories/{repository('harbour/web').pk}/access"
    body: dict[str, Any] = {"kind": "team", "name": "harbour/crane", "role": "read"}
    rows = crowd.alice.call("post", path, body, expect=201)
    grant = next(row["grant_id"] for row in rows if row["kind"] == "team")
    assert crowd.alice.call("get", path) == rows
    crowd.alice.call("post", path, body, expect=409)
    crowd.alice.call("post", path, {**body, "name": "harbour/none"}, expect=404)
    crowd.alice.call("post", path, {**body, "role": "king"}, expect=404)
    assert any(row["allowed"] for row in crowd.alice.call("get", f"{path}/explain?user=bob"))
    crowd.alice.call("get", f"{path}/explain?user=none", expect=404)
    for stranger, refused in ((crowd.bob, 403), (crowd.charlie, 404), (crowd.nobody, 404)):
        stranger.call("get", path, expect=refused)
        stranger.call("post", path, body, expect=refused)
        stranger.call("get", f"{path}/explain?user=bob", expect=refused)
        stranger.call("delete", f"{path}/{grant}", expect=refused)
    crowd.alice.call("delete", f"{path}/{grant}", expect=204)
    crowd.bob.call("get", path, expect=404)
