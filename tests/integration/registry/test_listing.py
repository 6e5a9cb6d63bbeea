"""Lists of repositories: words, labels, order."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agent.protocol.errors import InvalidInput
from controlplane.api.actor import SYSTEM
from registry.actions import pulls, usage
from registry.actions.repositories import create_repository, update_repository
from registry.models import Repository
from registry.queries import listing
from registry.queries.labels import checked_labels, parse_labels
from tests.integration.registry.crowd import Crowd, repository

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def rows(crowd: Crowd, push: Any) -> str:
    create_repository(SYSTEM, "harbour/shop", description="The Till", labels={"team": "web", "tier": "front"})
    create_repository(SYSTEM, "harbour/stock", readme="Counts *crates*.", labels={"team": "web"})
    create_repository(SYSTEM, "charlie/diary", labels={"team": "charlie"})
    push("harbour/stock", "release-7", layers=(b"a", b"bb" * 5000))
    return str(push("harbour/shop", "blue", layers=(b"c",)))


def found(text: str) -> list[str]:
    return list(listing.search(listing.listed(), text).order_by("full_name").values_list("full_name", flat=True))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("shop", ["harbour/shop"]),
        ("TILL", ["harbour/shop"]),
        ("crates", ["harbour/stock"]),
        ("release-7", ["harbour/stock"]),
        ("team=web", ["harbour/shop", "harbour/stock"]),
        ("front", ["harbour/shop"]),
        ("harbour front", ["harbour/shop"]),
        ("harbour nothing", []),
        ("", ["charlie/diary", "harbour/shop", "harbour/stock"]),
        ("100%", []),
    ],
)
def test_words(text: str, names: list[str]) -> None:
    assert found(text) == names


def test_digests_of_manifests_and_of_layers(rows: str) -> None:
    from tests.integration.registry.world import digest_of

    hexadecimal = rows.partition(":")[2]
    for text in (rows, hexadecimal, hexadecimal[:12], f"sha256:{hexadecimal[:9]}", str(digest_of(b"c"))):
        assert found(text) == ["harbour/shop"]
    assert found("sha512:" + hexadecimal[:12]) == []


def test_labels_are_replaced_whole_and_filtered_by(crowd: Crowd) -> None:
    def labelled(text: str) -> list[str]:
        return [row["name"] for row in crowd.admin.call("get", f"repositories?label={text}")]

    assert labelled("team=web") == ["harbour/shop", "harbour/stock"]
    assert labelled("team=web,tier") == ["harbour/shop"]
    assert labelled("team") == ["charlie/diary", "harbour/shop", "harbour/stock"]
    assert labelled("tea") == []
    path = f"repositories/{repository('harbour/shop').pk}"
    changed = crowd.alice.call("patch", path, {"labels": {"team": "till"}}, **{"If-Match": "*"})
    assert changed["labels"] == {"team": "till"}
    assert labelled("tier") == []
    crowd.alice.call("patch", path, {"labels": {"Bad Key": "x"}}, expect=400, **{"If-Match": "*"})
    made = crowd.alice.call("post", "repositories", {"name": "harbour/new", "labels": {"a/b": ""}}, expect=201)
    assert made["labels"] == {"a/b": ""}


def test_a_change_that_changes_no_label_says_so(crowd: Crowd) -> None:
    from controlplane.events.models import Event

    row = repository("harbour/stock")
    update_repository(crowd.alice.actor, row, None, labels={"team": "web"}, description="x")
    assert Event.objects.filter(kind="repository.updated").latest("id").data["changed"] == ["description"]


@pytest.mark.parametrize("text", ["=x", "UPPER=x", "a b=c", "-a=b", "a=" + "x" * 201])
def test_labels_that_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        checked_labels(dict([tuple(text.split("=", 1))]))


def test_labels_in_one_line_or_several() -> None:
    assert parse_labels("a=1 b=2 c") == {"a": "1", "b": "2", "c": ""}
    assert parse_labels("a=one two\nb = 2\n") == {"a": "one two", "b": "2"}


def order(crowd: Crowd, sort: str) -> list[str]:
    names, path = [], f"repositories?sort={sort}&limit=1"
    while path:
        names += [row["name"].partition("/")[2] for row in crowd.admin.call("get", path)]
        following = re.search(r'/api/v1/([^>]*)>; rel="next"', crowd.admin.headers.get("Link", ""))
        path = following[1] if following else ""
    return names


def test_lists_are_sorted_and_paged_by_every_column(crowd: Crowd) -> None:
    for _ in range(3):
        pulls.count("harbour/stock", "latest", "bob")
    pulls.flush()
    usage.recount()
    assert order(crowd, "-pulls")[0] == "stock"
    assert order(crowd, "-pushes")[-1] == "diary"
    assert order(crowd, "-size") == ["stock", "shop", "diary"]
    assert order(crowd, "name") == ["diary", "shop", "stock"]
    assert order(crowd, "-name") == ["stock", "shop", "diary"]
    assert order(crowd, "-pushed")[0] == "shop"
    for sort in listing.SORTS:
        assert sorted(order(crowd, sort)) == ["diary", "shop", "stock"], sort
        assert sorted(order(crowd, f"-{sort}")) == ["diary", "shop", "stock"], sort
    crowd.admin.call("get", "repositories?sort=colour", expect=400)


def test_pushes_are_counted(crowd: Crowd, push: Any) -> None:
    before = Repository.objects.get(full_name="harbour/shop").pushes
    push("harbour/shop", "blue")
    push("harbour/shop", "green")
    assert Repository.objects.get(full_name="harbour/shop").pushes == before + 2


def test_a_search_finds_nothing_of_others(crowd: Crowd) -> None:
    assert crowd.charlie.call("get", "repositories?q=harbour") == []
    assert [row["name"] for row in crowd.charlie.call("get", "repositories?q=team")] == ["charlie/diary"]
