"""Rules: every field with every operator; what a scan would tell is unknown until one has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry.rules import Candidate, Rule, check_rules, judge
from registry.rules.rule import FIELDS, RuleInvalid

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SCANNED = Candidate(
    tag="1.2-rc1",
    digest="sha256:ab",
    pushed_at=NOW - timedelta(days=10),
    pulled_at=NOW - timedelta(days=2),
    components=frozenset({"openssl", "bash"}),
    licences=frozenset({"MIT", "GPL-2.0"}),
    vulnerabilities={"critical": 2, "major": 0, "minor": 5},
)
UNSCANNED = Candidate(tag="1.2-rc1", digest="sha256:ab", pushed_at=NOW - timedelta(days=10))

# field, operator, values that meet it, values that do not
TABLE: list[tuple[str, str, list[str], list[str]]] = [
    ("tag", "equals", ["1.2-rc1"], ["1.2"]),
    ("tag", "starts_with", ["1."], ["2."]),
    ("tag", "ends_with", ["rc1"], ["rc2"]),
    ("tag", "contains", ["-rc"], ["_rc"]),
    ("tag", "one_of", ["x", "1.2-rc1"], ["x", "y"]),
    ("tag", "not_one_of", ["x", "y"], ["x", "1.2-rc1"]),
    ("tag", "matches", ["1.*-rc[0-9]"], ["1.?-r[!c]1"]),
    ("component", "equals", ["openssl"], ["ssl"]),
    ("component", "starts_with", ["open"], ["close"]),
    ("component", "ends_with", ["sh"], ["zsh"]),
    ("component", "contains", ["ssl"], ["tls"]),
    ("component", "one_of", ["zsh", "bash"], ["zsh", "fish"]),
    ("component", "not_one_of", ["zsh", "fish"], ["zsh", "bash"]),
    ("component", "matches", ["b*h"], ["c*h"]),
    ("licence", "one_of", ["MIT", "ISC"], ["ISC", "MPL-2.0"]),
    ("licence", "not_one_of", ["ISC", "MPL-2.0"], ["ISC", "MIT"]),
    ("updated_at", "before", ["9 days"], ["11 days"]),
    ("updated_at", "within", ["2 weeks"], ["239 hours"]),
    ("pulled_at", "before", ["47 hours"], ["1 month"]),
    ("pulled_at", "within", ["3 days"], ["1 day"]),
]
for _field, _found in (("critical", 2), ("major", 0), ("minor", 5), ("all", 7)):
    _name = f"vulnerability_{_field}"
    TABLE += [
        (_name, "gte", [str(_found)], [str(_found + 1)]),
        (_name, "eq", [str(_found)], [str(_found + 1)]),
        (_name, "neq", [str(_found + 1)], [str(_found)]),
        (_name, "lt", [str(_found + 1)], [str(_found)]),
    ]
    TABLE += [(_name, "lte", [str(_found)], [str(_found - 1)])] if _found else []
    TABLE += [(_name, "gt", [str(_found - 1)], [str(_found)])] if _found else []
TABLE += [("vulnerability_major", "lte", ["0"], []), ("vulnerability_major", "gt", [], ["0"])]
OF_A_SCAN = [row for row in TABLE if row[0] in ("component", "licence") or row[0].startswith("vulnerability")]


def test_the_table_is_whole() -> None:
    assert {(field, operator) for field, operator, *_ in TABLE} == {(field, word) for field in FIELDS for word in FIELDS[field]}


@pytest.mark.parametrize(("field", "operator", "met", "unmet"), TABLE)
def test_field_and_operator(field: str, operator: str, met: list[str], unmet: list[str]) -> None:
    for values, expected in ((met, True), (unmet, False)):
        if values:
            (rule,) = check_rules([{"field": field, "operator": operator, "values": values}])
            verdict = judge([rule], SCANNED, NOW)
            assert verdict.met is expected
            assert values[0] in verdict.reasons[0]
            assert verdict.reasons[0].startswith("not so: ") is not expected


@pytest.mark.parametrize(("field", "operator", "met", "unmet"), OF_A_SCAN)
def test_unknown_before_a_scan(field: str, operator: str, met: list[str], unmet: list[str]) -> None:
    verdict = judge([Rule(field, operator, tuple(met or unmet))], UNSCANNED, NOW)
    assert verdict.met is None
    assert "until 1.2-rc1 is scanned" in verdict.reasons[0]


def test_rules_are_anded_and_one_that_fails_decides_over_the_unknown() -> None:
    fits, fails = Rule("tag", "contains", ("rc",)), Rule("tag", "equals", ("latest",))
    unknown = Rule("vulnerability_all", "eq", ("0",))
    assert judge([fits, fits], UNSCANNED, NOW).met is True
    assert judge([fits, fails], UNSCANNED, NOW).met is False
    assert judge([fits, unknown], UNSCANNED, NOW).met is None
    assert judge([unknown, fails], UNSCANNED, NOW).met is False
    assert judge([fails, unknown], UNSCANNED, NOW).met is False
    assert judge([], UNSCANNED, NOW).met is True


def test_what_was_never_pulled_is_as_old_as_its_push() -> None:
    fresh = Candidate("new", "sha256:cd", pushed_at=NOW)
    assert judge([Rule("pulled_at", "before", ("1 day",))], fresh, NOW).met is False


@pytest.mark.parametrize(
    "data",
    [
        "tag",
        {"field": "size", "operator": "gt", "values": ["1"]},
        {"field": "tag", "operator": "gte", "values": ["1"]},
        {"field": "tag", "operator": "equals", "values": []},
        {"field": "tag", "operator": "equals", "values": ["a", "b"]},
        {"field": "tag", "operator": "equals", "values": "ab"},
        {"field": "tag", "operator": "equals", "values": [1]},
        {"field": "tag", "operator": "equals", "values": ["x" * 256]},
        {"field": "licence", "operator": "contains", "values": ["GPL"]},
        {"field": "vulnerability_all", "operator": "gte", "values": ["-1"]},
        {"field": "vulnerability_all", "operator": "gte", "values": ["many"]},
        {"field": "updated_at", "operator": "before", "values": ["soon"]},
        {"field": "updated_at", "operator": "before", "values": ["3 fortnights"]},
        {"field": "updated_at", "operator": "before", "values": ["999999 days"]},
    ],
)
def test_what_is_no_rule(data: Any) -> None:
    with pytest.raises(RuleInvalid):
        check_rules([data])


def test_a_policy_has_a_bound() -> None:
    with pytest.raises(RuleInvalid, match="at most 20"):
        check_rules([{"field": "tag", "operator": "equals", "values": ["a"]}] * 21)
