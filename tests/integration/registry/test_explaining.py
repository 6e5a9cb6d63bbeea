"""Why a team, an organisation or a robot may or may not do something in a repository."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.rbac.actions.grants import create_grant
from controlplane.rbac.models import Collection, Role
from controlplane.users.models import Organisation
from registry.actions.access import give
from registry.actions.repositories import create_repository, update_repository
from registry.actions.robots import create_robot, update_robot
from registry.queries import access
from registry.queries.explaining import Answer, explained
from tests.integration.console.test_pages import browser
from tests.integration.registry.crowd import Crowd, repository

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def web(crowd: Crowd) -> None:
    create_repository(SYSTEM, "harbour/web")
    create_repository(SYSTEM, "alice/own")


def of(kind: str, name: str, full_name: str = "harbour/web") -> dict[str, Answer]:
    return {answer.operation.removeprefix("Repository "): answer for answer in explained(repository(full_name), kind, name)}


def test_a_team_has_what_it_its_organisation_and_everyone_were_given(crowd: Crowd) -> None:
    assert not any(answer.allowed for answer in of("team", "harbour/crane").values())
    give(crowd.alice.actor, repository("harbour/web"), "team", "harbour/crane", "read")
    pull, push = of("team", "harbour/crane")["Pull"], of("team", "harbour/crane")["Push"]
    assert (pull.allowed, push.allowed) == (True, False)
    assert pull.reason == "Granted to the team harbour/crane by the role Registry Read on /Registry/harbour/web/."
    assert "team harbour/crane lacks Repository Push" in push.reason
    assert not of("org", "harbour")["Pull"].allowed, "a team's right is not its organisation's"
    give(crowd.alice.actor, repository("harbour/web"), "org", "harbour", "read-write", whole_namespace=True)
    for kind, name in (("org", "harbour"), ("team", "harbour/crane")):
        assert "Granted to the org harbour" in of(kind, name)["Push"].reason
    everyone = Organisation.objects.get(everyone=True)
    folder = Collection.objects.get(path="/Registry/")
    create_grant(SYSTEM, "org", everyone.pk, Role.objects.get(name="Registry Read"), folder)
    assert of("team", "harbour/crane", "alice/own")["Pull"].allowed
    for verb, right in (("Pull", "pull"), ("Push", "push"), ("Tag Delete", "delete")):
        assert of("team", "harbour/crane")[verb].allowed is (right in access.allowed_actions(crowd.bob.actor, "harbour/web"))


def test_what_is_public_says_so(crowd: Crowd) -> None:
    update_repository(SYSTEM, repository("harbour/web"), None, visibility="public")
    robot, _ = create_robot(SYSTEM, "far", rights=[{"repositories": "library/*", "actions": ["push"]}])
    for kind, name in (("team", "harbour/crane"), ("org", "harbour"), ("robot", robot.full_name)):
        found = of(kind, name)
        assert {verb for verb, answer in found.items() if answer.allowed} == {"View", "Pull"}
        assert found["Pull"].reason == "The repository is public."


def test_a_robot_has_what_stands_on_it_and_nothing_once_it_is_disabled(crowd: Crowd) -> None:
    rights = [{"repositories": "harbour/*", "actions": ["pull"]}, {"repositories": "harbour/other", "actions": ["push"]}]
    row, _ = create_robot(crowd.alice.actor, "ci", namespace="harbour", rights=rights)
    found = of("robot", "harbour+ci")
    assert {verb for verb, answer in found.items() if answer.allowed} == {"View", "Pull"}
    assert found["Pull"].reason == "Its right to pull here."
    assert found["Push"].reason == (
        "None of its rights gives it here (harbour/*: pull; harbour/other: push); a right to push here would."
    )
    assert "never that wide" in found["Policy"].reason
    update_robot(crowd.alice.actor, row, disabled=True)
    assert {answer.reason for answer in of("robot", "harbour+ci").values()} == {"The robot is disabled: nobody logs in as it."}


def test_a_user_is_told_of_with_the_team_that_brings_it(crowd: Crowd) -> None:
    give(crowd.alice.actor, repository("harbour/web"), "team", "harbour/crane", "read")
    give(crowd.alice.actor, repository("harbour/web"), "user", "charlie", "read")
    granted = "Granted by the role Registry Read on /Registry/harbour/web/."
    assert of("user", "Bob")["Pull"].reason == f"{granted} bob is one of the team harbour/crane."
    assert of("user", "charlie")["Pull"].reason == granted
    assert "one of" not in of("user", "bob")["Push"].reason


def test_the_list_of_rights_leads_to_the_explanation(crowd: Crowd) -> None:
    create_robot(crowd.alice.actor, "ci", namespace="harbour", rights=[{"repositories": "harbour/*", "actions": ["pull"]}])
    give(crowd.alice.actor, repository("harbour/web"), "team", "harbour/crane", "read")
    alice = browser("alice")
    page = alice.get("/repositories/harbour/web/-/access", secure=True).content.decode()
    links = [html.unescape(link) for link in re.findall(r'href="(\?kind=[^"#]+)#explain"', page)]
    assert set(links) == {"?kind=user&name=alice", "?kind=team&name=harbour%2Fcrane", "?kind=robot&name=harbour%2Bci"}
    for link in links:
        assert "What" in alice.get(f"/repositories/harbour/web/-/access{link}", secure=True).content.decode()


def test_over_rest_for_who_looks_after_the_repository(crowd: Crowd) -> None:
    create_robot(crowd.alice.actor, "ci", namespace="harbour", rights=[{"repositories": "harbour/*", "actions": ["pull"]}])
    path = f"repositories/{repository('harbour/web').pk}/access/explain"
    rows = crowd.alice.call("get", f"{path}?robot=harbour%2Bci")
    assert [row["operation"] for row in rows if row["allowed"]] == ["Repository View", "Repository Pull"]
    assert len(crowd.alice.call("get", f"{path}?team=harbour/crane")) == len(rows)
    assert len(crowd.alice.call("get", f"{path}?org=harbour")) == len(rows)
    for query, status in (("", 400), ("?user=bob&robot=x", 400), ("?team=harbour", 404), ("?robot=alice%2Bci", 404)):
        crowd.alice.call("get", f"{path}{query}", expect=status)
    crowd.bob.call("get", f"{path}?robot=harbour%2Bci", expect=404)


def test_robots_of_other_namespaces_are_not_told_of(crowd: Crowd) -> None:
    create_robot(crowd.alice.actor, "ci", namespace="alice", rights=[{"repositories": "alice/*", "actions": ["pull"]}])
    path = f"repositories/{repository('harbour/web').pk}/access/explain"
    crowd.alice.call("get", f"{path}?robot=alice%2Bci", expect=404)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("kind=team&name=harbour/crane", "team harbour/crane lacks"),
        ("kind=team&name=harbour/none", "There is no team &#x27;harbour/none&#x27;"),
        ("kind=robot&name=harbour%2Bci", "Its right to pull here."),
        ("user=bob", "No grant gives Repository Push on /Registry/harbour/web/."),
        ("kind=king&name=x", "Explained is one of"),
    ],
)
def test_on_the_page(crowd: Crowd, query: str, says: str) -> None:
    create_robot(crowd.alice.actor, "ci", namespace="harbour", rights=[{"repositories": "harbour/*", "actions": ["pull"]}])
    answer: Any = browser("alice").get(f"/repositories/harbour/web/-/access?{query}", secure=True)
    assert says in answer.content.decode()
