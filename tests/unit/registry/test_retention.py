"""Retention: what each rule keeps, alone and together, and what it never lets go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry.rules import Candidate
from registry.rules.retention import check_keeps, decide
from registry.rules.rule import RuleInvalid

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def tag(name: str, pushed: float, pulled: float | None = None, **more: Any) -> Candidate:
    """Ages in days."""
    pulled_at = None if pulled is None else NOW - timedelta(days=pulled)
    return Candidate(name, f"sha256:{name}", NOW - timedelta(days=pushed), pulled_at, **more)


# newest push first: e d c b a
TAGS = [tag("a", 100, 1), tag("b", 60, 50), tag("c", 40), tag("d", 20, 2), tag("e", 10)]


def kept(rules: list[dict[str, Any]], tags: list[Candidate] | None = None) -> str:
    return "".join(
        sorted(row.candidate.tag for row in decide(check_keeps(rules), TAGS if tags is None else tags, NOW) if row.kept)
    )


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([{"keep": "latest_pushed", "value": "2"}], "de"),
        ([{"keep": "latest_pulled", "value": "2"}], "ad"),
        ([{"keep": "latest_active", "value": "3"}], "ade"),
        ([{"keep": "pushed_within", "value": "30 days"}], "de"),
        ([{"keep": "pulled_within", "value": "30 days"}], "ad"),
        ([{"keep": "always"}], "abcde"),
        ([{"keep": "always", "tags": "{b,c}"}], "bc"),
        ([{"keep": "latest_pushed", "value": "1", "tags": "[a-c]"}], "c"),
        ([{"keep": "latest_pushed", "value": "1"}, {"keep": "pulled_within", "value": "30 days"}], "ade"),
    ],
)
def test_what_rules_keep(rules: list[dict[str, Any]], expected: str) -> None:
    assert kept(rules) == expected


def test_each_tag_has_its_reasons() -> None:
    rules = check_keeps([{"keep": "latest_pushed", "value": "1"}, {"keep": "pushed_within", "value": "30 days"}])
    found = {row.candidate.tag: row.reasons for row in decide(rules, TAGS, NOW)}
    assert found["e"] == ("among the 1 newest pushes", "pushed within 30 days")
    assert found["d"] == ("pushed within 30 days",)
    assert found["a"] == ("no rule keeps it",)


def test_a_new_tag_that_nobody_pulled_yet_is_safe_from_rules_about_pulls() -> None:
    new = [tag(f"n{number}", 0.1 * number) for number in range(1, 6)]
    pulled = [tag("old", 300, 0.01)]
    assert kept([{"keep": "latest_pulled", "value": "1"}], [*pulled, *new]) == "n1n2n3n4n5old"
    assert kept([{"keep": "pulled_within", "value": "1 day"}], [*pulled, *new]) == "n1n2n3n4n5old"
    aged = [tag("w", 8)]
    assert kept([{"keep": "latest_pulled", "value": "1"}], [*pulled, *aged]) == "old", "for a week"
    assert kept([{"keep": "latest_pushed", "value": "1"}], new) == "n1", "rules about pushes mean what they say"


def test_what_is_immutable_or_runs_stays_and_says_so() -> None:
    items = [tag("x", 900, immutable="the setting"), tag("y", 800, holders=("task/1",)), tag("z", 700)]
    found = {row.candidate.tag: row for row in decide(check_keeps([{"keep": "pushed_within", "value": "1 day"}]), items, NOW)}
    assert found["x"].reasons == ("immutable by the setting",)
    assert found["y"].reasons == ("in use",)
    assert [name for name, row in found.items() if row.kept] == ["y", "x"]


@pytest.mark.parametrize(
    "rules",
    [
        [],
        ["always"],
        [{"keep": "forever"}],
        [{"keep": "latest_pushed"}],
        [{"keep": "latest_pushed", "value": "0"}],
        [{"keep": "latest_pushed", "value": "-1"}],
        [{"keep": "pushed_within", "value": "30"}],
        [{"keep": "always"}] * 21,
    ],
)
def test_what_is_no_retention(rules: Any) -> None:
    with pytest.raises(RuleInvalid):
        check_keeps(rules)
