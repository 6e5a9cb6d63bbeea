from __future__ import annotations

from datetime import UTC, datetime

import pytest

from registry.rules import check_pattern, check_template, expand, matches
from registry.rules.pattern import PatternInvalid
from registry.rules.template import LETTERS, TemplateInvalid


@pytest.mark.parametrize(
    ("pattern", "fits", "not_these"),
    [
        ("*", ["", "latest", "1.2.3"], ["a/b"]),
        ("**", ["", "latest", "a/b/c"], []),
        ("v*", ["v", "v1.2"], ["1v", "v/1"]),
        ("release-?", ["release-1"], ["release-", "release-12"]),
        ("[0-9].[0-9]*", ["1.2", "1.2-rc"], ["a.2", "1"]),
        ("[!0-9]*", ["latest"], ["1.2", ""]),
        ("{stable,lts-*}", ["stable", "lts-24"], ["lts", "stables", "stable,lts-1"]),
        ("a{,b}{c,d}", ["ac", "abc", "ad", "abd"], ["a", "ab"]),
        ("team/**/web", ["team/a/web", "team/a/b/web"], ["team/web", "team/a/api"]),
        ("team/*", ["team/web"], ["team/a/b", "team"]),
        ("1.2", ["1.2"], ["1x2", "1.2.3"]),
        ("a**b*c", ["abc", "a/b/bc"], ["ab/c", "a/bc/"]),
    ],
)
def test_pattern(pattern: str, fits: list[str], not_these: list[str]) -> None:
    assert [name for name in fits if not matches(pattern, name)] == []
    assert [name for name in not_these if matches(pattern, name)] == []


@pytest.mark.parametrize("pattern", ["", "a" * 129, "[", "[]", "a]", "{a", "a}", "{a,{b}", "[a/]", "[z-]", "{a,b}" * 7])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(PatternInvalid):
        check_pattern(pattern)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    # A backtracking matcher would take longer than the universe has; the test's own time limit says so.
    assert not matches("*a" * 60 + "b", "a" * 255)
    assert matches("**a" * 40, "a" * 255)


MOMENT = datetime(2026, 3, 5, 16, 7, 9, 42, tzinfo=UTC)


EXPANDED = {
    "A": "Thursday",
    "a": "Thu",
    "w": "4",
    "d": "05",
    "B": "March",
    "b": "Mar",
    "m": "03",
    "Y": "2026",
    "y": "26",
    "H": "16",
    "I": "04",
    "p": "PM",
    "M": "07",
    "S": "09",
    "f": "000042",
    "Z": "UTC",
    "j": "064",
    "W": "09",
    "n": "1.2",
}


@pytest.mark.parametrize(("letter", "text"), EXPANDED.items())
def test_template_letter(letter: str, text: str) -> None:
    assert expand(f"x-%{letter}.y", "1.2", MOMENT) == f"x-{text}.y"


def test_the_letters_are_all_there() -> None:
    assert EXPANDED.keys() == set(LETTERS) | {"n"}


def test_a_template_of_several_parts() -> None:
    assert expand("%n-%Y%m%d", "web", MOMENT) == "web-20260305"


@pytest.mark.parametrize("template", ["", "%q", "%", "%%n", "-%n", "%n/%Y", "x" * 129, "%z"])
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(TemplateInvalid):
        check_template(template)


def test_a_tag_that_grows_too_long() -> None:
    with pytest.raises(TemplateInvalid, match="no tag"):
        expand("%n-%n", "x" * 100, MOMENT)
