"""A rule compares one field of a tag with values. The rules of a policy are ANDed; policies stand beside one another.

Fields and operators are DTR's. What only a scan can tell is *unknown* until one has: a rule about it is then not met and says so,
and the policy is judged again when the scan ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent.protocol.errors import InvalidInput
from registry.rules.candidate import Candidate
from registry.rules.pattern import check_pattern, matches

NAME_OPERATORS = {
    "equals": "is",
    "starts_with": "starts with",
    "ends_with": "ends with",
    "contains": "contains",
    "one_of": "is one of",
    "not_one_of": "is not one of",
    "matches": "matches",
}
COUNT_OPERATORS = {"gte": "at least", "gt": "more than", "eq": "exactly", "neq": "not", "lte": "at most", "lt": "fewer than"}
SET_OPERATORS = {"one_of": "is one of", "not_one_of": "is not one of"}
AGE_OPERATORS = {"before": "more than", "within": "within the last"}
FIELDS: dict[str, dict[str, str]] = {
    "tag": NAME_OPERATORS,
    "component": NAME_OPERATORS,
    "licence": SET_OPERATORS,
    "vulnerability_critical": COUNT_OPERATORS,
    "vulnerability_major": COUNT_OPERATORS,
    "vulnerability_minor": COUNT_OPERATORS,
    "vulnerability_all": COUNT_OPERATORS,
    "updated_at": AGE_OPERATORS,
    "pulled_at": AGE_OPERATORS,
}
UNITS = {"hour": 1, "day": 24, "week": 7 * 24, "month": 30 * 24}  # hours
MAX_RULES, MAX_VALUES, MAX_VALUE = 20, 100, 255
_LISTS = ("one_of", "not_one_of")


class RuleInvalid(InvalidInput):
    code = "rule_invalid"


@dataclass(frozen=True, slots=True)
class Rule:
    """`values` has one entry, except for one_of and not_one_of. An age is "30 days"; a count is a whole number."""

    field: str
    operator: str
    values: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"field": self.field, "operator": self.operator, "values": list(self.values)}

    def __str__(self) -> str:
        word = FIELDS[self.field][self.operator]
        if self.field in ("updated_at", "pulled_at"):
            done = "pushed" if self.field == "updated_at" else "pulled"
            return f"{done} {word} {self.values[0]}{' ago' if self.operator == 'before' else ''}"
        if self.field.startswith("vulnerability_"):
            severity = self.field.removeprefix("vulnerability_")
            return f"{word} {self.values[0]} {'' if severity == 'all' else severity + ' '}vulnerabilities"
        return f"{self.field} {word} {', '.join(self.values)}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`met` is None while something is unknown: not met yet. One reason a rule, for people."""

    met: bool | None
    reasons: tuple[str, ...]


def check_rules(data: Iterable[Any], allowed: Sequence[str] = tuple(FIELDS)) -> tuple[Rule, ...]:
    """Rules from plain data, [{"field", "operator", "values"}]. Raises RuleInvalid, PatternInvalid."""
    rules = tuple(_checked(item, allowed) for item in data)
    if len(rules) > MAX_RULES:
        raise RuleInvalid(f"a policy has at most {MAX_RULES} rules, this one {len(rules)}")
    return rules


def _checked(item: Any, allowed: Sequence[str]) -> Rule:
    if not isinstance(item, dict):
        raise RuleInvalid("a rule is an object with field, operator and values")
    field, operator, values = item.get("field"), item.get("operator"), item.get("values")
    if field not in allowed or field not in FIELDS:
        raise RuleInvalid(f"{str(field)[:40]!r} is no field of a rule here; it is one of {', '.join(allowed)}")
    if operator not in FIELDS[field]:
        raise RuleInvalid(f"{field} is compared by {', '.join(FIELDS[field])}, not by {str(operator)[:40]!r}")
    if (
        not isinstance(values, list | tuple)
        or not 1 <= len(values) <= MAX_VALUES
        or not all(isinstance(value, str) and 0 < len(value) <= MAX_VALUE for value in values)
    ):
        raise RuleInvalid(f"the values of a rule are 1 to {MAX_VALUES} texts of at most {MAX_VALUE} characters")
    rule = Rule(field, operator, tuple(values))
    if operator not in _LISTS and len(values) != 1:
        raise RuleInvalid(f"{field} {operator} takes one value; use one_of for several, or several rules")
    if FIELDS[field] is AGE_OPERATORS:
        age(values[0])
    elif FIELDS[field] is COUNT_OPERATORS and not values[0].isdecimal():
        raise RuleInvalid(f"{field} is compared with a whole number, not with {values[0][:40]!r}")
    elif operator == "matches":
        check_pattern(values[0])
    return rule


def age(text: str) -> timedelta:
    """ "12 hours", "1 day", "2 weeks", "6 months" (of 30 days). Raises RuleInvalid."""
    number, _, unit = text.strip().partition(" ")
    hours = UNITS.get(unit.strip().removesuffix("s"))
    if not (number.isascii() and number.isdecimal()) or hours is None or len(number) > 5:
        raise RuleInvalid(f"an age is a number of hours, days, weeks or months like '30 days', not {text[:40]!r}")
    return timedelta(hours=int(number) * hours)


def judge(rules: Iterable[Rule], candidate: Candidate, now: datetime) -> Verdict:
    """Are all rules met? One that is not decides, even while others are unknown."""
    met: bool | None = True
    reasons = []
    for rule in rules:
        one, why = _judge(rule, candidate, now)
        reasons.append(why)
        met = False if one is False or met is False else None if one is None else met
    return Verdict(met, tuple(reasons) or ("every tag fits: there is no rule",))


def _judge(rule: Rule, candidate: Candidate, now: datetime) -> tuple[bool | None, str]:
    one = _known(rule, candidate, now)
    if one is None:
        return None, f"unknown until {candidate.name} is scanned: {rule}"
    return one, f"{rule}" if one else f"not so: {rule}"


def _known(rule: Rule, candidate: Candidate, now: datetime) -> bool | None:
    match rule.field:
        case "tag":
            return _name(rule, candidate.tag)
        case "component":
            return _any(rule, candidate.components)
        case "licence":
            return _any(rule, candidate.licences)
        case "updated_at":
            return _age(rule, candidate.pushed_at, now)
        case "pulled_at":
            # One that was never pulled counts from its push: else the rule would take what was pushed a minute ago.
            return _age(rule, candidate.pulled_at or candidate.pushed_at, now)
    if candidate.vulnerabilities is None:
        return None
    severity = rule.field.removeprefix("vulnerability_")
    found = candidate.vulnerabilities
    return _count(rule, sum(found.values()) if severity == "all" else found.get(severity, 0))


def _name(rule: Rule, text: str) -> bool:
    value = rule.values[0]
    match rule.operator:
        case "equals":
            return text == value
        case "starts_with":
            return text.startswith(value)
        case "ends_with":
            return text.endswith(value)
        case "contains":
            return value in text
        case "one_of":
            return text in rule.values
        case "not_one_of":
            return text not in rule.values
    return matches(value, text)


def _any(rule: Rule, names: frozenset[str] | None) -> bool | None:
    """Has the image one that fits; for not_one_of: has it none of them?"""
    if names is None:
        return None
    if rule.operator == "not_one_of":
        return names.isdisjoint(rule.values)
    return any(_name(rule, name) for name in names)


def _count(rule: Rule, found: int) -> bool:
    wanted = int(rule.values[0])
    return {
        "gte": found >= wanted,
        "gt": found > wanted,
        "eq": found == wanted,
        "neq": found != wanted,
        "lte": found <= wanted,
        "lt": found < wanted,
    }[rule.operator]


def _age(rule: Rule, at: datetime, now: datetime) -> bool:
    old = now - at > age(rule.values[0])
    return old if rule.operator == "before" else not old
