"""Every REST route of the ground, asked by everybody. A route that is not in the table fails the run."""

from __future__ import annotations

import pytest
from django.db import transaction
from django.urls import get_resolver

from controlplane.api import access
from controlplane.api.routes import operations_of, walk
from controlplane.rbac.models import Collection, Grant, Role
from controlplane.users.models import Token, UserSession
from tests.cast import PASSWORD

pytestmark = pytest.mark.django_db

GROUND = ("controlplane.api", "controlplane.users", "controlplane.rbac", "controlplane.events", "controlplane.pki")
PEOPLE = ("anonymous", "charlie", "bob", "alice", "admin")
SELF = {"If-Match": "*"}

# (method, route, body): the status for anonymous, charlie (stranger), bob (member), alice (owner), admin
TABLE = {
    ("get", "schema"): (200, 200, 200, 200, 200),
    ("get", "health"): (200, 200, 200, 200, 200),
    ("get", "pki/ca"): (200, 200, 200, 200, 200),
    ("post", "login", (("username", "x"), ("password", "y"))): (401, 401, 401, 401, 401),
    ("get", "me"): (401, 200, 200, 200, 200),
    ("get", "operations"): (401, 200, 200, 200, 200),
    ("get", "access/explain?operation=Role View"): (401, 200, 200, 200, 200),
    ("get", "events"): (401, 200, 200, 200, 200),
    ("get", "events/verify"): (401, 403, 403, 403, 200),
    ("get", "users"): (401, 200, 200, 200, 200),
    ("post", "users", (("username", "zoe"), ("password", PASSWORD))): (401, 403, 403, 403, 201),
    ("get", "users/bob"): (401, 404, 200, 404, 200),
    ("patch", "users/bob", (("full_name", "B"),)): (401, 404, 200, 404, 200),
    ("patch", "users/bob", (("is_admin", False),)): (401, 404, 400, 404, 200),
    ("post", "users/bob/password", (("password", "a whole new sentence"),)): (401, 404, 401, 404, 204),
    ("delete", "users/bob"): (401, 404, 403, 404, 204),
    ("get", "organisations"): (401, 200, 200, 200, 200),
    ("post", "organisations", (("name", "pier"),)): (401, 403, 403, 403, 201),
    ("get", "organisations/harbour"): (401, 404, 200, 200, 200),
    ("patch", "organisations/harbour", (("full_name", "H"),)): (401, 404, 403, 200, 200),
    ("get", "organisations/harbour/members"): (401, 404, 200, 200, 200),
    ("post", "organisations/harbour/members", (("username", "charlie"),)): (401, 404, 403, 200, 200),
    ("delete", "organisations/harbour/members/charlie"): (401, 404, 403, 204, 204),
    ("delete", "organisations/harbour"): (401, 404, 403, 403, 204),
    ("get", "teams"): (401, 200, 200, 200, 200),
    ("post", "teams", (("organisation", "harbour"), ("name", "rope"))): (401, 404, 403, 201, 201),
    ("get", "teams/{team}"): (401, 404, 200, 200, 200),
    ("patch", "teams/{team}", (("description", "d"),)): (401, 404, 403, 200, 200),
    ("get", "teams/{team}/members"): (401, 404, 200, 200, 200),
    ("post", "teams/{team}/members", (("username", "alice"),)): (401, 404, 403, 200, 200),
    ("delete", "teams/{team}/members/alice"): (401, 404, 403, 204, 204),
    ("delete", "teams/{team}"): (401, 404, 403, 204, 204),
    ("get", "tokens"): (401, 200, 200, 200, 200),
    ("post", "tokens", (("name", "new"), ("user", "bob"))): (401, 404, 201, 404, 201),
    ("get", "tokens/{token}"): (401, 404, 200, 404, 200),
    ("delete", "tokens/{token}"): (401, 404, 204, 404, 204),
    ("get", "sessions"): (401, 200, 200, 200, 200),
    ("get", "sessions/{session}"): (401, 404, 200, 404, 200),
    ("delete", "sessions/{session}"): (401, 404, 204, 404, 204),
    ("get", "collections"): (401, 200, 200, 200, 200),
    ("post", "collections", (("parent", "/Prod"), ("name", "New"))): (401, 404, 403, 404, 201),
    ("get", "collections/{collection}"): (401, 404, 200, 404, 200),
    ("patch", "collections/{collection}", (("name", "Other"),)): (401, 404, 403, 404, 200),
    ("delete", "collections/{collection}"): (401, 404, 403, 404, 204),
    ("get", "roles"): (401, 200, 200, 200, 200),
    ("post", "roles", (("name", "R"), ("operations", ()))): (401, 403, 403, 403, 201),
    ("get", "roles/{role}"): (401, 404, 404, 404, 200),
    ("get", "roles/{role}/versions"): (401, 404, 404, 404, 200),
    ("patch", "roles/{role}", (("description", "d"),)): (401, 404, 404, 404, 200),
    ("delete", "roles/{role}"): (401, 404, 404, 404, 204),
    ("get", "grants"): (401, 200, 200, 200, 200),
    ("post", "grants", "grant"): (401, 404, 403, 404, 201),
    ("get", "grants/{grant}"): (401, 404, 404, 404, 200),
    ("delete", "grants/{grant}"): (401, 404, 404, 404, 204),
}


@pytest.fixture
def things(people, token_of):
    from controlplane.api.actor import SYSTEM
    from controlplane.rbac import actions, collections

    prod = actions.create_collection(SYSTEM, collections.root(), "Prod")
    actions.create_grant(SYSTEM, "user", people.bob.pk, Role.objects.get(name="View Only"), prod)
    token_of(people.bob)
    from django.utils import timezone

    session = UserSession.objects.create(user=people.bob, session_key="k", expires_at=timezone.now())
    return {
        "team": people.crane.pk,
        "token": Token.objects.get(user=people.bob).pk,
        "session": session.pk,
        "collection": Collection.objects.create(name="Leaf", parent=prod, path="/Prod/Leaf/").pk,
        "role": actions.create_role(SYSTEM, "Spare", {}).pk,
        "grant": Grant.objects.get(collection=prod).pk,
        "bodies": {"grant": {"subject_kind": "user", "subject_id": people.charlie.pk, "role": "Spare", "collection": "/Prod"}},
    }


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]} {row[1]}")
def test_route(api, people, things, row):
    """Everybody asks the same question of the same state: what one of them changed is rolled back before the next."""
    got = []
    for name in PEOPLE:
        mark = transaction.savepoint()
        answer = ask(api(None if name == "anonymous" else getattr(people, name)), row, things)
        transaction.savepoint_rollback(mark)
        got.append(answer.status_code)
        if answer.status_code >= 400:
            assert answer["Content-Type"] == "application/problem+json"
            assert {"type", "title", "status", "detail", "code", "retry"} <= set(answer.json())
    assert tuple(got) == TABLE[row]


def ask(client, row, things):
    method, route, *rest = row
    if rest and isinstance(rest[0], str):
        body = things["bodies"][rest[0]]
    else:
        body = {key: {} if value == () else value for key, value in dict(*rest).items()}
    url = "/api/v1/" + route.format(**{key: value for key, value in things.items() if key != "bodies"})
    return getattr(client, method)(url, *([body] if rest else []), headers=SELF)


def _shape(route: str) -> str:
    import re

    return re.sub(r"\(\?P<\w+>\[[^\]]*\]\+\)|\{\w+\}", "*", route).replace("^", "").replace("\\Z", "").replace("$", "")


def test_every_route_of_the_ground_is_in_the_table():
    listed = {(method, _shape(route.split("?")[0])) for method, route, *_ in TABLE}
    known = {"users/bob": "users/*", "organisations/harbour": "organisations/*"}
    shapes = set()
    for method, route in listed:
        for concrete, general in known.items():
            route = route.replace(concrete, general)
        for name in ("members/charlie", "members/alice"):
            route = route.replace(name, "members/*")
        shapes.add((method, route))
    found = set()
    for route, callback in walk(get_resolver().url_patterns):
        cls = getattr(callback, "cls", None)
        if not route.startswith("api/v1/") or cls is None or not cls.__module__.startswith(GROUND):
            continue
        actions = getattr(callback, "actions", None) or {
            m: m for m in ("get", "post", "put", "patch", "delete") if hasattr(cls, m)
        }
        found |= {
            (method, _shape(route.removeprefix("api/v1/")))
            for method in actions
            if method in {"get", "post", "put", "patch", "delete"}
        }
    assert found - shapes == set()
    assert shapes - found == set()


def test_every_route_names_its_operation():
    special = {access.PUBLIC, access.AUTHENTICATED}
    nameless = []
    for route, callback in walk(get_resolver().url_patterns):
        for action, operation in operations_of(callback).items():
            if operation is None or (operation not in special and not access.is_operation(operation)):
                nameless.append(f"{route} {action}: {operation}")
    assert nameless == []


def test_the_walk_finds_a_view_without_an_operation():
    from django.urls import path

    from controlplane.api.views import ApiView

    class Nameless(ApiView):
        def get(self, request):
            raise AssertionError

    patterns = [path("x", Nameless.as_view()), path("y", lambda request: None)]
    assert [operations_of(callback) for _, callback in walk(patterns)] == [{"get": None}, {"*": None}]


def test_a_view_that_names_an_operation_and_never_asks_gives_no_answer(people):
    from rest_framework.response import Response
    from rest_framework.test import APIRequestFactory, force_authenticate

    from agent.protocol.errors import Internal
    from controlplane.api.views import ApiView

    class Forgetful(ApiView):
        operations = {"get": "User View"}

        def get(self, request):
            return Response({"secret": 1})

    request = APIRequestFactory().get("/x")
    force_authenticate(request, people.admin)
    with pytest.raises(Internal, match="without asking"):
        Forgetful.as_view()(request)


def test_a_view_without_an_operation_never_runs(people):
    from rest_framework.test import APIRequestFactory, force_authenticate

    from controlplane.api.views import ApiView

    class Nameless(ApiView):
        def get(self, request):
            raise AssertionError("ran")

    request = APIRequestFactory().get("/x")
    force_authenticate(request, people.admin)
    assert Nameless.as_view()(request).status_code == 500
