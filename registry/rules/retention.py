"""Retention says what to KEEP. Rules are ORed: whatever one of them keeps stays, and what none keeps goes.

    latest_pushed k    the k newest pushes
    latest_pulled n    the n that were pulled last
    latest_active k    the k that were pushed or pulled last
    pushed_within age  pushed within "30 days"
    pulled_within age  pulled within "30 days"
    always             all of them

A tag that was never pulled ranks by its push in rules about pulls, and while it is new no rule about pulls lets it go: what was
pushed an hour ago has had no time to be pulled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from registry.rules.candidate import Candidate
from registry.rules.pattern import check_pattern, matches
from registry.rules.rule import MAX_RULES, RuleInvalid, age

COUNTS: dict[str, tuple[str, Callable[[Candidate], datetime]]] = {
    "latest_pushed": ("newest pushes", lambda item: item.pushed_at),
    "latest_pulled": ("last pulled", lambda item: item.pulled_at or item.pushed_at),
    "latest_active": ("last pushed or pulled", lambda item: item.active_at),
}
AGES = {"pushed_within": "pushed", "pulled_within": "pulled"}
KEEPS = (*COUNTS, *AGES, "always")
OF_PULLS = ("latest_pulled", "pulled_within")
NEW = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Keep:
    """`value` is a count or an age as text, "" for always. `tags` is a pattern of those that the rule is about."""

    keep: str
    value: str
    tags: str

    def as_dict(self) -> dict[str, str]:
        return {"keep": self.keep, "value": self.value, "tags": self.tags}

    def __str__(self) -> str:
        where = "" if self.tags in ("*", "**") else f" of {self.tags}"
        if self.keep == "always":
            return f"always kept{where}"
        if self.keep in COUNTS:
            return f"among the {self.value} {COUNTS[self.keep][0]}{where}"
        return f"{AGES[self.keep]} within {self.value}{where}"


def check_keeps(data: Iterable[Any]) -> tuple[Keep, ...]:
    """Rules from plain data, [{"keep", "value", "tags"}]. Raises RuleInvalid, PatternInvalid."""
    keeps = tuple(_checked(item) for item in data)
    if not 1 <= len(keeps) <= MAX_RULES:
        raise RuleInvalid(f"a retention policy has 1 to {MAX_RULES} rules; without one it would remove every tag")
    return keeps


def _checked(item: Any) -> Keep:
    if not isinstance(item, dict) or item.get("keep") not in KEEPS:
        raise RuleInvalid(f"a retention rule is an object whose keep is one of {', '.join(KEEPS)}")
    value = str(item.get("value") or "").strip()
    if item["keep"] in COUNTS and not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 100_000):
        raise RuleInvalid(f"{item['keep']} takes how many to keep, from 1 on")
    if item["keep"] in AGES:
        age(value)
    return Keep(item["keep"], value if item["keep"] != "always" else "", check_pattern(str(item.get("tags") or "*")))


@dataclass(frozen=True, slots=True)
class Kept:
    candidate: Candidate
    kept: bool
    reasons: tuple[str, ...]


def decide(keeps: Sequence[Keep], candidates: Iterable[Candidate], now: datetime) -> list[Kept]:
    """Newest first. What is immutable or runs is kept whatever the rules say, and takes no place in a count."""
    items = sorted(candidates, key=lambda item: (item.pushed_at, item.name), reverse=True)
    reasons: dict[tuple[str, str], list[str]] = {(item.tag, item.digest): list(item.protected) for item in items}
    for keep in keeps:
        for item in _kept(keep, [item for item in items if matches(keep.tags, item.tag)], now):
            reasons[item.tag, item.digest].append(str(keep))
    if any(keep.keep in OF_PULLS for keep in keeps):
        for item in items:
            if item.pulled_at is None and now - item.pushed_at < NEW and not reasons[item.tag, item.digest]:
                reasons[item.tag, item.digest].append("new and not pulled yet")
    return [
        Kept(item, bool(why), tuple(why) or ("no rule keeps it",)) for item in items for why in [reasons[item.tag, item.digest]]
    ]


def _kept(keep: Keep, items: list[Candidate], now: datetime) -> list[Candidate]:
    if keep.keep == "always":
        return items
    if keep.keep in COUNTS:
        rank = COUNTS[keep.keep][1]
        return sorted(items, key=lambda item: (rank(item), item.name), reverse=True)[: int(keep.value)]
    window = age(keep.value)
    if keep.keep == "pushed_within":
        return [item for item in items if now - item.pushed_at <= window]
    return [item for item in items if item.pulled_at is not None and now - item.pulled_at <= window]
