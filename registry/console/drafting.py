"""A policy's form: from the fields of a page's address to a draft, and from a saved policy back."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict

from registry.actions.drafts import PROMOTION_FIELDS
from registry.actions.plans import TAG_LIMIT
from registry.models import Policy
from registry.rules import Rule
from registry.rules.outcome import HOLD, KEEP, PROMOTE, REFUSE, REMOVE, SKIP
from registry.rules.retention import COUNTS, Keep
from registry.rules.rule import FIELDS

Kind = Policy.Kind
KINDS = {
    Kind.RETENTION.value: ("Retention", "What to keep: a tag that no rule keeps is removed, every night and when you ask."),
    Kind.PRUNING.value: ("Pruning", "What to remove: a tag that meets all rules goes, every quarter of an hour."),
    Kind.PROMOTION.value: ("Promotion", "What moves on: a pushed tag that meets all rules enters another repository as it is."),
    Kind.IMMUTABILITY.value: ("Immutability", "What stays: tags that fit are neither overwritten nor deleted."),
    TAG_LIMIT: ("Tag limit", "How many: a new tag beyond the limit evicts the oldest that may go."),
}
KEEP_WORDS = {
    "latest_pushed": "the newest pushes, this many",
    "latest_pulled": "the last pulled, this many",
    "latest_active": "the last pushed or pulled, this many",
    "pushed_within": "pushed within",
    "pulled_within": "pulled within",
    "always": "always",
}
FIELD_WORDS = {"updated_at": "pushed", "pulled_at": "last pulled"}
# act -> the state whose colour and icon it has
TONES = {KEEP: "active", HOLD: "active", PROMOTE: "active", SKIP: "stopped", REMOVE: "paused", REFUSE: "failed"}
LISTS = ("one_of", "not_one_of")
ROWS = 2  # of rules, at least; one more than are filled


def fields_of(query: QueryDict, kind: str) -> dict[str, Any]:
    """The drafted columns, unchecked: what is wrong with them the draft says."""
    fields: dict[str, Any] = {"tags": query.get("tags", "").strip() or "*"}
    if query.get("scope") == "namespace":
        fields["repositories"] = query.get("repositories", "").strip() or "**"
    if kind == Kind.RETENTION:
        rows = zip_longest(query.getlist("keep"), query.getlist("value"), query.getlist("of"), fillvalue="")
        fields["rules"] = [{"keep": keep, "value": value.strip(), "tags": of.strip() or "*"} for keep, value, of in rows if keep]
        fields["options"] = {"untagged": "untagged" in query}
    elif kind in (Kind.PRUNING, Kind.PROMOTION):
        found = zip_longest(query.getlist("field"), query.getlist("operator"), query.getlist("value"), fillvalue="")
        fields["rules"] = [_rule(*row) for row in found if row[0]]
    if kind == Kind.PROMOTION:
        fields["options"] = {"target": query.get("target", "").strip(), "template": query.get("template", "").strip() or "%n"}
    return fields


def _rule(field: str, operator: str, value: str) -> dict[str, Any]:
    values = value.split(",") if operator in LISTS else [value]
    return {"field": field, "operator": operator, "values": [item.strip() for item in values]}


def query_of(policy: Policy) -> QueryDict:
    """The form's fields that make the saved policy again."""
    pairs = [("tags", policy.tags), ("scope", "repository" if policy.repository_id else "namespace")]
    pairs += [("repositories", policy.repositories), *((key, str(value)) for key, value in policy.options.items() if value)]
    for rule in policy.rules:
        if policy.kind == Kind.RETENTION:
            pairs += [("keep", rule["keep"]), ("value", rule["value"]), ("of", rule["tags"])]
        else:
            pairs += [("field", rule["field"]), ("operator", rule["operator"]), ("value", ", ".join(rule["values"]))]
    return QueryDict(urlencode(pairs))


def form(query: QueryDict, kind: str) -> dict[str, Any]:
    """What the template fills its inputs with."""
    first = query.getlist("keep" if kind == Kind.RETENTION else "field")
    columns = {name: query.getlist(name) for name in ("operator", "value", "of")}
    rows = [
        {"first": word, **{name: column[at] if at < len(column) else "" for name, column in columns.items()}}
        for at, word in enumerate(first)
        if word
    ]
    rows += [{"first": "", "operator": "", "value": "", "of": ""}] * max(1, ROWS - len(rows))
    return {
        "rows": list(enumerate(rows, 1)),
        "tags": query.get("tags", "*"),
        "scope": query.get("scope", "repository"),
        "repositories": query.get("repositories", "**"),
        "target": query.get("target", ""),
        "template": query.get("template", "%n"),
        "untagged": "untagged" in query,
        "limit": query.get("limit", ""),
        "choices": _choices(kind),
        "operators": _operators(kind),
    }


def _fields(kind: str) -> tuple[str, ...]:
    return PROMOTION_FIELDS if kind == Kind.PROMOTION else tuple(FIELDS)


def _choices(kind: str) -> list[tuple[str, str]]:
    if kind == Kind.RETENTION:
        return list(KEEP_WORDS.items())
    return [(name, FIELD_WORDS.get(name, _words(name))) for name in _fields(kind)]


def _words(name: str) -> str:
    kind, _, severity = name.partition("_")
    return f"{severity} vulnerabilities" if kind == "vulnerability" else name


def _operators(kind: str) -> list[tuple[str, str]]:
    """Those of any field; the draft says which fit the one that was chosen."""
    found: dict[str, str] = {}
    if kind != Kind.RETENTION:
        for name in _fields(kind):
            found.update(FIELDS[name])
    return list(found.items())


def sentences(policy: Policy) -> list[str]:
    """What a saved policy says, one rule a line."""
    where = [] if policy.tags in ("*", "**") else [f"tags like {policy.tags}"]
    if policy.kind == Kind.PROMOTION:
        where.append(f"to {policy.options['target']}:{policy.options['template']}")
    if policy.kind == Kind.RETENTION:
        keeps = [Keep(rule["keep"], rule["value"], rule["tags"]) for rule in policy.rules]
        kept = [f"keeps the {keep}" if keep.keep in COUNTS else f"keeps {keep}" for keep in keeps]
        kept = [text.replace("the among the", "what is among the") for text in kept]
        return [*where, *kept, *(["removes images without a tag"] if policy.options.get("untagged") else [])]
    rules = [str(Rule(rule["field"], rule["operator"], tuple(rule["values"]))) for rule in policy.rules]
    return [*where, *rules] or ["every tag"]
