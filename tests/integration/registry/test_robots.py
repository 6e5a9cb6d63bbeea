"""Robots: who makes them, what they may do, and that what is withdrawn is gone at once."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.utils import timezone

from agent.protocol.errors import Denied, InvalidInput, Unauthenticated
from controlplane.api.access import visible
from controlplane.api.actor import SYSTEM, Actor
from controlplane.events.models import Event
from controlplane.rbac.actions.grants import create_grant
from controlplane.rbac.models import Role
from registry.actions import robots
from registry.actions.repositories import create_repository
from registry.models import RefreshToken, Repository, Robot
from registry.queries import access, content, policy
from registry.v2 import auth, token
from registry.v2.auth import Credentials
from tests.integration.registry.crowd import Crowd, repository

pytestmark = pytest.mark.django_db(transaction=True)
PULL = [{"repositories": "harbour/*", "actions": ["pull"]}]


@pytest.fixture(autouse=True)
def fresh(crowd: Crowd) -> None:
    policy.clock.forget()
    for name in ("harbour/web", "harbour/base", "alice/own"):
        create_repository(SYSTEM, name)


def basic(name: str, secret: str, address: str = "10.0.0.1") -> Credentials:
    return Credentials("Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode(), address)


def actions_of(credentials: Credentials, name: str) -> frozenset[str]:
    return auth.authenticate(credentials).actions(name)


def bearer_of(credentials: Credentials, scope: str = "repository:harbour/web:pull,push") -> Credentials:
    answer = token._get(credentials, [scope], "test", offline=True)
    assert "refresh_token" not in answer, "a robot keeps its secret, not a second one"
    return Credentials(f"Bearer {answer['token']}", credentials.address)


def make(actor: Actor, name: str = "ci", namespace: str = "harbour", **fields: Any) -> tuple[Robot, str]:
    return robots.create_robot(actor, name, namespace=namespace, **{"rights": PULL, **fields})


def test_a_robot_does_what_stands_on_it_and_nothing_else(crowd: Crowd) -> None:
    rights = [{"repositories": "harbour/*", "actions": ["pull"]}, {"repositories": "harbour/w?b", "actions": ["push", "delete"]}]
    row, secret = make(crowd.alice.actor, rights=rights)
    assert row.full_name == "harbour+ci"
    known = basic("harbour+ci", secret)
    for credentials in (known, Credentials(f"Bearer {secret}", "10.0.0.1")):
        assert actions_of(credentials, "harbour/web") == {"pull", "push", "delete"}
        assert actions_of(credentials, "harbour/base") == {"pull"}
        assert actions_of(credentials, "alice/own") == frozenset()
        assert actions_of(credentials, "harbour/new") == frozenset(), "it was not given the right to create"
    assert actions_of(bearer_of(known), "harbour/web") == {"pull", "push"}
    assert not RefreshToken.objects.exists()
    assert Robot.objects.get().last_used_address == "10.0.0.1"


@pytest.mark.parametrize("wrong", ["harbour+c", "alice", "harbour+ci2", ""])
def test_the_secret_counts_only_with_its_name(crowd: Crowd, wrong: str) -> None:
    _, secret = make(crowd.alice.actor)
    with pytest.raises(Unauthenticated):
        auth.authenticate(basic(wrong, secret))
    with pytest.raises(Unauthenticated):
        auth.authenticate(basic("harbour+ci", secret[:-1] + ("A" if secret[-1] != "A" else "B")))


def test_a_grant_to_everyone_gives_a_robot_nothing(crowd: Crowd) -> None:
    from controlplane.users.models import Organisation

    everyone = Organisation.objects.get(everyone=True)
    create_grant(SYSTEM, "org", everyone.pk, Role.objects.get(name="Registry Admin"), repository("alice/own").collection)
    _, secret = make(crowd.alice.actor)
    assert actions_of(basic("harbour+ci", secret), "alice/own") == frozenset()
    assert access.allowed_actions(crowd.charlie.actor, "alice/own") == {"pull", "push", "delete"}


def test_a_robot_sees_what_it_may_pull_and_what_is_public(crowd: Crowd) -> None:
    create_repository(SYSTEM, "alice/open", visibility="public")
    row, _ = make(crowd.alice.actor, rights=[{"repositories": "harbour/w?b", "actions": ["pull"]}])
    seen = visible(Actor("robot", row.pk, row.full_name), Repository.objects.order_by("full_name"), "Repository Pull")
    assert list(seen.values_list("full_name", flat=True)) == ["alice/open", "harbour/web"]


def test_create_is_a_right_of_its_own(crowd: Crowd, settings: Any) -> None:
    rights = [{"repositories": "harbour/app-*", "actions": ["pull", "push", "create"]}]
    row, _ = make(crowd.alice.actor, rights=rights)
    actor = Actor("robot", row.pk, row.full_name)
    assert create_repository(actor, "harbour/app-1").full_name == "harbour/app-1"
    with pytest.raises(Denied):
        create_repository(actor, "harbour/other")
    with pytest.raises(Denied):
        create_repository(actor, "alice/app-1")


def test_everything_that_is_withdrawn_is_gone_at_once(crowd: Crowd) -> None:
    row, secret = make(crowd.alice.actor, rights=[{"repositories": "harbour/web", "actions": ["pull", "push"]}])
    known = basic("harbour+ci", secret)
    live = bearer_of(known)
    assert actions_of(live, "harbour/web") == {"pull", "push"}

    row = robots.update_robot(crowd.alice.actor, row, rights=[{"repositories": "harbour/web", "actions": ["pull"]}])
    assert actions_of(live, "harbour/web") == {"pull"}, "a living token holds only what would be given again"
    assert actions_of(known, "harbour/web") == {"pull"}

    fresh_secret = robots.rotate_robot(crowd.alice.actor, row)
    for old in (live, known, Credentials(f"Bearer {secret}", "10.0.0.1")):
        with pytest.raises(Unauthenticated):
            auth.authenticate(old)
    known = basic("harbour+ci", fresh_secret)
    live = bearer_of(known)
    assert actions_of(live, "harbour/web") == {"pull"}

    row = robots.update_robot(crowd.alice.actor, row, disabled=True)
    for old in (live, known):
        with pytest.raises(Unauthenticated):
            auth.authenticate(old)
    row = robots.update_robot(crowd.alice.actor, row, disabled=False)
    assert actions_of(known, "harbour/web") == {"pull"}

    robots.delete_robot(crowd.alice.actor, row)
    for old in (live, known):
        with pytest.raises(Unauthenticated):
            auth.authenticate(old)


def test_an_expired_robot_is_nobody_also_with_a_token_it_got_before(crowd: Crowd) -> None:
    row, secret = make(crowd.alice.actor, expires_at=timezone.now() + timedelta(hours=1))
    known = basic("harbour+ci", secret)
    live = bearer_of(known)
    assert actions_of(live, "harbour/web") == {"pull"}
    Robot.objects.filter(pk=row.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    auth.robots._bounds.clear()  # the hour passes: no event tells of it, the remembered time does
    for old in (live, known):
        with pytest.raises(Unauthenticated):
            auth.authenticate(old)
    with pytest.raises(InvalidInput):
        make(crowd.alice.actor, "late", expires_at=timezone.now() - timedelta(minutes=1))


@pytest.mark.parametrize(("seconds", "lives"), [(90, 90), (20, 60), (86400, 300)])
def test_a_token_ends_with_its_robot(crowd: Crowd, seconds: int, lives: int) -> None:
    _, secret = make(crowd.alice.actor, expires_at=timezone.now() + timedelta(seconds=seconds))
    answer = token._get(basic("harbour+ci", secret), ["repository:harbour/web:pull"], "test", offline=False)
    claims = jwt.decode(answer["token"], options={"verify_signature": False})
    assert lives - 2 <= claims["exp"] - claims["iat"] <= lives
    assert lives - 2 <= answer["expires_in"] <= lives


def test_an_address_limit_holds_for_secrets_and_for_tokens(crowd: Crowd) -> None:
    _, secret = make(crowd.alice.actor, cidrs=["10.0.0.0/8", "2001:db8::/32"])
    inside = basic("harbour+ci", secret)
    live = bearer_of(inside)
    assert actions_of(live, "harbour/web") == {"pull"}
    assert actions_of(basic("harbour+ci", secret, "2001:db8::7"), "harbour/web") == {"pull"}
    for elsewhere in (basic("harbour+ci", secret, "192.0.2.1"), Credentials(live.authorization, "192.0.2.1")):
        with pytest.raises(Unauthenticated):
            auth.authenticate(elsewhere)
    with pytest.raises(InvalidInput):
        make(crowd.alice.actor, "odd", cidrs=["10.0.0.0/99"])


def test_nobody_makes_a_robot_that_may_more_than_they_do(crowd: Crowd) -> None:
    role = Role.objects.create(
        name="Robot Keeper",
        operations={"Robot": {"View": [], "Create": [], "Update": []}, "Repository": {"View": [], "Pull": []}},
    )
    create_grant(SYSTEM, "user", crowd.cast.bob.pk, role, repository("harbour/web").namespace.collection)
    row, secret = make(crowd.bob.actor, "reader")
    assert actions_of(basic("harbour+reader", secret), "harbour/web") == {"pull"}
    with pytest.raises(Denied) as refused:
        make(crowd.bob.actor, "writer", rights=[{"repositories": "harbour/web", "actions": ["push"]}])
    assert "Repository Push" in refused.value.detail
    strong, _ = make(crowd.alice.actor, "strong", rights=[{"repositories": "harbour/*", "actions": ["push"]}])
    with pytest.raises(Denied):
        robots.rotate_robot(crowd.bob.actor, strong)  # its secret would be bob's to use
    with pytest.raises(Denied):
        robots.update_robot(crowd.bob.actor, row, rights=[{"repositories": "harbour/*", "actions": ["delete"]}])
    robots.update_robot(crowd.bob.actor, strong, disabled=True)
    with pytest.raises(Denied):
        robots.update_robot(crowd.bob.actor, strong, disabled=False)


@pytest.mark.parametrize("glob", ["*", "alice/*", "harbour*", "harbourmaster/x", "h?rbour/web", "alice/own"])
def test_a_namespaces_robot_stays_in_its_namespace(crowd: Crowd, glob: str) -> None:
    with pytest.raises((InvalidInput, Denied)):
        make(crowd.alice.actor, rights=[{"repositories": glob, "actions": ["pull"]}])
    with pytest.raises((InvalidInput, Denied)):
        make(crowd.admin.actor, rights=[{"repositories": glob, "actions": ["pull"]}])


def test_the_systems_robots_are_made_by_administrators(crowd: Crowd) -> None:
    with pytest.raises(Denied):
        make(crowd.alice.actor, namespace="", rights=[{"repositories": "harbour/*", "actions": ["pull"]}])
    row, secret = make(crowd.admin.actor, "mirror", namespace="", rights=[{"repositories": "*", "actions": ["pull"]}])
    assert row.full_name == "+mirror"
    assert actions_of(basic("+mirror", secret), "alice/own") == {"pull"}


def test_rest_shows_the_secret_once_and_nothing_to_strangers(crowd: Crowd) -> None:
    body = {"name": "ci", "namespace": "harbour", "rights": PULL, "cidrs": ["10.1.0.0/16"]}
    for stranger in (crowd.bob, crowd.charlie):
        stranger.call("post", "robots", body, expect=403)
    crowd.nobody.call("post", "robots", body, expect=401)
    made = crowd.alice.call("post", "robots", body, expect=201)
    assert made["name"] == "harbour+ci"
    assert made["secret"].startswith(f"wharfbot_{made['id']}_")
    shown = crowd.alice.call("get", f"robots/{made['id']}")
    assert "secret" not in shown
    assert "secret_hash" not in shown
    assert made["secret"].rpartition("_")[2] not in str(crowd.alice.call("get", "robots"))
    crowd.alice.call("post", "robots", body, expect=409)
    for stranger in (crowd.bob, crowd.charlie):
        assert stranger.call("get", "robots") == []
        for method, suffix, given in (
            ("get", "", None),
            ("patch", "", {"disabled": True}),
            ("delete", "", None),
            ("post", "/rotate", {}),
        ):
            stranger.call(method, f"robots/{made['id']}{suffix}", given, expect=404, **{"If-Match": "*"})
    turned = crowd.alice.call("post", f"robots/{made['id']}/rotate", {})
    assert turned["secret"] != made["secret"]
    changed = crowd.alice.call("patch", f"robots/{made['id']}", {"disabled": True}, **{"If-Match": crowd.alice.headers["ETag"]})
    assert changed["usable"] is False
    crowd.alice.call("patch", f"robots/{made['id']}", {"disabled": False}, expect=412, **{"If-Match": '"v1"'})
    crowd.alice.call("delete", f"robots/{made['id']}", expect=204, **{"If-Match": "*"})
    assert crowd.alice.call("get", "robots") == []
    stored = list(Event.objects.filter(kind__startswith="robot.").values_list("kind", flat=True))
    assert stored == ["robot.created", "robot.rotated", "robot.updated", "robot.deleted"]


def test_who_looks_after_a_namespace_by_a_grant_makes_its_robots(crowd: Crowd) -> None:
    home = repository("harbour/web").namespace.collection
    create_grant(SYSTEM, "team", crowd.cast.crane.pk, Role.objects.get(name="Registry Admin"), home)
    made = crowd.bob.call("post", "robots", {"name": "b", "namespace": "harbour", "rights": PULL}, expect=201)
    assert made["created_by"] == "bob"
    assert [row["name"] for row in crowd.bob.call("get", "robots")] == ["harbour+b"]


def test_a_robot_pushes(crowd: Crowd, push: Any) -> None:
    row, _ = make(crowd.alice.actor, rights=[{"repositories": "harbour/web", "actions": ["pull", "push"]}])
    push("harbour/web", "v9", actor=Actor("robot", row.pk, row.full_name))
    assert content.manifest("harbour/web", "v9") is not None
    event = Event.objects.filter(kind="tag.pushed").latest("id")
    assert (event.actor_kind, event.actor_name) == ("robot", "harbour+ci")
