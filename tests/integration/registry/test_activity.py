"""What happened in a repository: who is told what."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.events import record
from controlplane.events.models import Event
from registry.actions import manifests
from registry.actions.access import give
from registry.actions.repositories import create_repository, update_repository
from registry.queries import activity
from tests.integration.registry.crowd import Crowd, repository

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def story(crowd: Crowd, push: Any) -> str:
    web = create_repository(crowd.alice.actor, "harbour/web")
    create_repository(crowd.alice.actor, "harbour/other")
    first = push("harbour/web", "v1", layers=(b"1",), actor=crowd.alice.actor)
    push("harbour/web", "v1", layers=(b"2",), actor=crowd.alice.actor)
    push("harbour/other", "v1", actor=crowd.alice.actor)
    give(crowd.alice.actor, web, "team", "harbour/crane", "read")
    manifests.delete_manifest(crowd.alice.actor, "harbour/web", first)
    update_repository(crowd.alice.actor, web, None, description="x")
    record("mirror.pushed", actor=SYSTEM, target=f"repository/{web.pk}", collection_path=web.collection.path)
    return str(first)


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


def test_its_administrators_see_everything_newest_first(crowd: Crowd, story: str) -> None:
    short = story[7:19]
    rows = crowd.alice.call("get", f"repositories/{repository('harbour/web').pk}/activity")
    assert texts(rows)[:4] == [
        "mirror pushed",
        "changed description",
        f"removed image {short}",
        "gave team harbour/crane the role Registry Read",
    ]
    assert texts(rows)[-1] == "made the repository, private"
    assert f"before {short}" in " ".join(texts(rows))
    assert {row["actor_name"] for row in rows} == {"alice", "system"}


def test_a_reader_sees_pushes_and_deletes_alone(crowd: Crowd) -> None:
    path = f"repositories/{repository('harbour/web').pk}/activity"
    kinds = {row["kind"] for row in crowd.bob.call("get", path)}
    assert kinds == {"repository.created", "tag.pushed", "manifest.pushed", "manifest.deleted", "repository.updated"}
    assert crowd.bob.call("get", f"{path}?kind=access") == []
    for stranger in (crowd.charlie, crowd.nobody):
        stranger.call("get", path, expect=404)


def test_filters_and_pages(crowd: Crowd) -> None:
    path = f"repositories/{repository('harbour/web').pk}/activity"
    assert {row["kind"] for row in crowd.alice.call("get", f"{path}?kind=pushes")} == {"tag.pushed", "manifest.pushed"}
    assert {row["kind"] for row in crowd.alice.call("get", f"{path}?kind=tag.")} == {"tag.pushed"}
    assert [row["kind"] for row in crowd.alice.call("get", f"{path}?kind=access")] == ["grant.created"]
    assert {row["actor_name"] for row in crowd.alice.call("get", f"{path}?who=sys")} == {"system"}
    first = crowd.alice.call("get", f"{path}?limit=2")
    following = crowd.alice.headers["Link"].partition("/api/v1/")[2].partition(">")[0]
    second = crowd.alice.call("get", following)
    assert [row["id"] for row in (*first, *second)] == sorted({row["id"] for row in (*first, *second)}, reverse=True)


def test_what_has_no_words_is_named_all_the_same(crowd: Crowd) -> None:
    event = record("policy_rule.tested", actor=SYSTEM, target="repository/x")
    assert activity.sentence(event) == "policy rule tested"


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (
            "tag.promoted",
            {"tag": "v1", "target": "harbour/prod", "target_tag": "v1-2026"},
            "promoted tag v1 to harbour/prod:v1-2026",
        ),
        ("policy.updated", {"policy": "pruning", "enabled": False}, "changed the pruning policy, which is off"),
        ("registry.policy_ran", {"policy": "retention", "done": 3, "looked_at": 10}, "ran the retention policy: 3 of 10 tags"),
        ("tag.evicted", {"tag": "v1", "limit": 5}, "evicted tag v1: the limit is 5 tags"),
        ("manifest.restored", {"digest": "sha256:" + "a" * 64, "tags": ["v1"]}, f"brought back image {'a' * 12} as v1"),
    ],
)
def test_what_policies_and_undoing_did_is_said_in_words(kind: str, data: dict[str, Any], says: str) -> None:
    event = Event(kind=kind, data=data, actor_kind="system", actor_name="policy/92vy0wb1inhf0ikhmuy2ur3nr")
    assert (activity.sentence(event), activity.who(event)) == (says, "a policy")
