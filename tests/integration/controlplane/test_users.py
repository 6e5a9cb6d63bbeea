"""Accounts, organisations and teams through REST: what each kind of person may do."""

from __future__ import annotations

import pytest

from controlplane.events.models import Event
from controlplane.rbac.models import Collection, Grant
from controlplane.users.models import TeamMembership, User, UserSession
from tests.cast import PASSWORD

pytestmark = pytest.mark.django_db


def test_user_gets_a_private_collection_with_the_default_role(people):
    grant = Grant.objects.get(subject_kind="user", subject_id=people.alice.pk)
    assert (grant.role.name, grant.collection.path) == ("Restricted Control", "/Shared/Private/alice/")


def test_everybody_sees_only_the_own_account_and_the_administrator_all(api, people):
    names = {
        name: [row["username"] for row in api(getattr(people, name)).get("/api/v1/users").json()] for name in ("alice", "admin")
    }
    assert names["alice"] == ["alice"]
    assert sorted(names["admin"]) == ["admin", "alice", "bob", "charlie"]


def test_stranger_cannot_tell_an_unseen_account_from_none(api, people):
    client = api(people.charlie)
    seen, none = client.get("/api/v1/users/alice"), client.get("/api/v1/users/nobody-at-all")
    assert seen.status_code == none.status_code == 404
    assert {**seen.json(), "instance": "", "request_id": ""} == {**none.json(), "instance": "", "request_id": ""}


def test_create_needs_the_operation_and_answers_with_location_and_etag(api, people):
    body = {"username": "Dora", "password": PASSWORD, "email": "dora@example.org"}
    refused = api(people.alice).post("/api/v1/users", body)
    assert refused.status_code == 403
    assert refused.json()["operation"] == "User Create"
    made = api(people.admin).post("/api/v1/users", body)
    assert (made.status_code, made["Location"], made["ETag"]) == (201, "/api/v1/users/dora", '"v1"')
    assert Collection.objects.filter(path="/Shared/Private/dora/").exists()


@pytest.mark.parametrize(
    "field", ["is_admin", "is_active", "password", "id", "version", "created_at", "last_login", "password_changed_at"]
)
def test_nobody_assigns_a_field_that_the_route_does_not_write(api, people, field):
    before = User.objects.values().get(pk=people.alice.pk)
    answer = api(people.alice).patch("/api/v1/users/alice", {field: True}, headers={"If-Match": "*"})
    assert answer.status_code in {400, 403}
    assert User.objects.values().get(pk=people.alice.pk) == before


def test_a_user_changes_the_own_name(api, people):
    answer = api(people.alice).patch("/api/v1/users/alice", {"full_name": "Alice A."}, headers={"If-Match": '"v1"'})
    assert (answer.status_code, answer["ETag"]) == (200, '"v2"')


def test_the_last_administrator_stays(api, people):
    client = api(people.admin)
    for change in ({"is_admin": False}, {"is_active": False}):
        assert client.patch("/api/v1/users/admin", change, headers={"If-Match": "*"}).status_code == 409
    assert client.delete("/api/v1/users/admin", headers={"If-Match": "*"}).status_code == 409
    assert User.objects.get(username="admin").is_admin


def test_password_needs_the_current_one_and_a_good_new_one(api, people):
    client = api(people.alice)
    url = "/api/v1/users/alice/password"
    assert client.post(url, {"password": "another long sentence", "current": "wrong"}).status_code == 401
    weak = client.post(url, {"password": "short", "current": PASSWORD})
    assert (weak.status_code, weak.json()["errors"][0]["field"]) == (400, "password")
    assert client.post(url, {"password": "another long sentence", "current": PASSWORD}).status_code == 204
    people.alice.refresh_from_db()
    assert people.alice.check_password("another long sentence")


def test_removing_a_user_removes_grants_tokens_and_memberships(api, people, token_of):
    bob = people.bob.pk
    token = token_of(people.bob)
    assert api(people.admin).delete("/api/v1/users/bob", headers={"If-Match": "*"}).status_code == 204
    assert not Grant.objects.filter(subject_id=bob).exists()
    assert not TeamMembership.objects.filter(user_id=bob).exists()
    assert api().get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_owner_manages_members_and_teams_and_a_member_does_not(api, people):
    owner, member = api(people.alice), api(people.bob)
    assert member.post("/api/v1/organisations/harbour/members", {"username": "charlie"}).status_code == 403
    assert owner.post("/api/v1/organisations/harbour/members", {"username": "charlie"}).status_code == 200
    made = owner.post("/api/v1/teams", {"organisation": "harbour", "name": "rope"})
    assert made.status_code == 201
    assert member.post("/api/v1/teams", {"organisation": "harbour", "name": "knot"}).status_code == 403
    assert owner.post(f"{made['Location']}/members", {"username": "charlie"}).status_code == 200
    assert owner.delete("/api/v1/organisations/harbour/members/charlie").status_code == 204
    assert owner.get(f"{made['Location']}/members").json() == []


def test_stranger_sees_neither_organisation_nor_team(api, people):
    client = api(people.charlie)
    assert client.get("/api/v1/organisations/harbour").status_code == 404
    assert client.get(f"/api/v1/teams/{people.crane.pk}").status_code == 404
    assert client.post("/api/v1/teams", {"organisation": "harbour", "name": "x"}).status_code == 404
    assert [row["name"] for row in client.get("/api/v1/organisations").json()] == ["everyone"]


def test_team_takes_members_of_its_organisation_only(api, people):
    answer = api(people.alice).post(f"/api/v1/teams/{people.crane.pk}/members", {"username": "charlie"})
    assert answer.status_code == 409


def test_removing_a_team_removes_its_grants(api, people):
    body = {"subject_kind": "team", "subject_id": people.crane.pk, "role": "View Only", "collection": "/Shared"}
    assert api(people.admin).post("/api/v1/grants", body).status_code == 201
    assert api(people.alice).delete(f"/api/v1/teams/{people.crane.pk}", headers={"If-Match": "*"}).status_code == 204
    assert not Grant.objects.filter(subject_kind="team").exists()


def test_every_write_leaves_one_event(api, people):
    before = Event.objects.count()
    api(people.admin)  # its token is one event
    answer = api(people.admin).post("/api/v1/organisations", {"name": "pier", "owner": "bob"})
    assert answer.status_code == 201
    event = Event.objects.order_by("-id").first()
    assert event is not None
    assert (event.kind, event.actor_name, event.data["name"]) == ("organisation.created", "admin", "pier")
    assert Event.objects.count() == before + 3


def test_disabling_ends_sessions_and_tokens(api, client, people, token_of):
    token = token_of(people.bob)
    from django.http import HttpRequest

    from controlplane.users import actions

    request = HttpRequest()
    request.META = {"REMOTE_ADDR": "192.0.2.7"}
    from django.contrib.sessions.backends.db import SessionStore

    request.session = SessionStore()
    actions.login(request, "bob", PASSWORD)
    assert UserSession.objects.filter(user=people.bob).count() == 1
    assert api(people.admin).patch("/api/v1/users/bob", {"is_active": False}, headers={"If-Match": "*"}).status_code == 200
    assert not UserSession.objects.filter(user=people.bob).exists()
    assert api().get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401
