"""What a policy does to today's content: one engine for the run, the dry run and the rehearsal of a draft. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from agent.protocol.errors import InvalidInput
from registry.actions.drafts import Draft, Kind
from registry.actions.quotas import held
from registry.actions.tags import evictable
from registry.models import Quota, Repository, Tag
from registry.queries import standing
from registry.queries.candidates import candidates, repositories_of, untagged
from registry.queries.standing import Standing
from registry.rules import Candidate, expand, judge
from registry.rules.immutability import ImmutableRule
from registry.rules.outcome import HOLD, KEEP, PROMOTE, REFUSE, REMOVE, SKIP, Outcome
from registry.rules.retention import decide
from registry.rules.template import TemplateInvalid
from registry.rules.words import size as words

TAG_LIMIT, QUOTA = "tag_limit", "quota"  # kinds of drafts that are settings, not policies


def plan(draft: Draft, now: datetime, names: list[str] | None = None) -> list[Outcome]:
    """One outcome a tag, by repository, newest tag first. `names` narrows it to these tags."""
    rules = standing.current(fresh=True)
    found: list[Outcome] = []
    for repository in repositories_of(draft):
        found.extend(_PLANS[draft.kind](draft, repository, rules, now, names))
    return found


def limit_of(options: dict[str, Any]) -> int:
    """The number of a drafted tag limit or quota. Raises InvalidInput."""
    text = str(options.get("limit", ""))
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidInput("options.limit is a whole number: of tags, or of bytes", field="options")
    return int(text)


def rehearse(draft: Draft, limit: int = 0) -> list[Outcome]:
    """What the draft would do now, in a transaction that cannot write. `limit` is a tag limit's or a quota's number."""
    with read_only():
        if draft.kind == QUOTA:
            return _quota(draft, limit)
        if draft.kind == TAG_LIMIT:
            return [item for row in repositories_of(draft) for item in _tag_limit(row, limit)]
        return plan(draft, timezone.now())


@contextmanager
def read_only() -> Iterator[None]:
    """A transaction in which the database itself refuses every write. Within another one it is only as read-only as its code."""
    if connection.in_atomic_block:
        yield
        return
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with transaction.atomic():
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                yield
            return
        cursor.execute("PRAGMA query_only = 1")
        try:
            yield
        finally:
            cursor.execute("PRAGMA query_only = 0")


def _pruning(draft: Draft, repository: Repository, rules: Standing, now: datetime, names: list[str] | None) -> list[Outcome]:
    found = []
    for item in candidates(repository, rules, tags=draft.tags, since=draft.since, names=names):
        verdict = judge(draft.judged_rules, item, now)
        act = REMOVE if verdict.met else KEEP
        reasons = verdict.reasons
        if act == REMOVE and item.protected:
            act, reasons = KEEP, (*item.protected, *reasons)
        found.append(Outcome(repository.full_name, item.tag, item.digest, act, reasons, holders=item.holders))
    return found


def _retention(draft: Draft, repository: Repository, rules: Standing, now: datetime, names: list[str] | None) -> list[Outcome]:
    found = decide(draft.keeps, candidates(repository, rules, tags=draft.tags, since=draft.since, names=names), now)
    result = [
        Outcome(
            repository.full_name,
            row.candidate.tag,
            row.candidate.digest,
            KEEP if row.kept else REMOVE,
            row.reasons,
            holders=row.candidate.holders,
        )
        for row in found
    ]
    if draft.options.get("untagged"):
        for item in untagged(repository):
            act, why = (KEEP, item.protected) if item.protected else (REMOVE, ("no tag names it",))
            result.append(Outcome(repository.full_name, "", item.digest, act, why, holders=item.holders))
    return result


def _promotion(draft: Draft, repository: Repository, rules: Standing, now: datetime, names: list[str] | None) -> list[Outcome]:
    target = Repository.objects.select_related("namespace").filter(full_name=draft.options["target"]).first()
    found = []
    for item in candidates(repository, rules, tags=draft.tags, since=draft.since, names=names):
        verdict = judge(draft.judged_rules, item, now)
        outcome = Outcome(repository.full_name, item.tag, item.digest, SKIP, verdict.reasons)
        if verdict.met:
            outcome = _promoted(draft, outcome, target, rules, now)
        found.append(outcome)
    return found


def _promoted(draft: Draft, base: Outcome, target: Repository | None, rules: Standing, now: datetime) -> Outcome:
    name = draft.options["target"]

    def said(act: str, reason: str = "", tag: str = "") -> Outcome:
        reasons = (reason, *base.reasons) if reason else base.reasons
        return Outcome(base.repository, base.tag, base.digest, act, reasons, f"{name}:{tag}" if tag else name)

    if target is None:
        return said(REFUSE, f"there is no repository {name}")
    try:
        tag = expand(draft.options["template"], base.tag, now)
    except TemplateInvalid as error:
        return said(REFUSE, error.detail)
    present = Tag.objects.filter(repository=target, name=tag).values_list("manifest__digest", flat=True).first()
    if present == base.digest:
        return said(SKIP, "it names the same image already", tag)
    if present and (rule := rules.held(target, tag)):
        return said(REFUSE, f"{name}:{tag} is immutable by {rule}", tag)
    return said(PROMOTE, "", tag)


def _immutability(draft: Draft, repository: Repository, rules: Standing, now: datetime, names: list[str] | None) -> list[Outcome]:
    rule = ImmutableRule(draft.id or "new", draft.namespace_id, draft.repository_id or "", draft.repositories, draft.tags)
    held = {item.tag for item in candidates(repository, rules, tags=draft.tags, names=names)}
    return [
        Outcome(repository.full_name, item.tag, item.digest, *_holds(item, item.tag in held, rule))
        for item in candidates(repository, rules, names=names)
    ]


def _holds(item: Candidate, fits: bool, rule: ImmutableRule) -> tuple[str, tuple[str, ...]]:
    already = (f"immutable already by {item.immutable}",) if item.immutable else ()
    if fits:
        return HOLD, (f"neither overwritten nor deleted: it fits {rule.tags}", *already)
    return (HOLD, already) if already else (SKIP, (f"does not fit {rule.tags}",))


def _tag_limit(repository: Repository, limit: int) -> list[Outcome]:
    """What the next new tag would evict under `limit`."""
    rows = Tag.objects.filter(repository=repository).select_related("manifest").defer("manifest__content")
    excess = max(0, rows.count() + 1 - limit) if limit else 0
    going = {tag.name for tag in evictable(repository, rows.order_by("pushed_at", "id"), excess)}
    result = []
    for place, item in enumerate(candidates(repository, standing.current()), 1):
        act, why = KEEP, item.protected or ("may not go",)
        if item.tag in going:
            act, why = REMOVE, ("the next new tag evicts it",)
        elif not excess or place < limit:
            why = (f"within the limit of {limit}" if limit else "there is no limit",)
        result.append(Outcome(repository.full_name, item.tag, item.digest, act, why, holders=item.holders))
    if len(going) < excess:
        result.insert(0, Outcome(repository.full_name, "", "", REFUSE, ("the next new tag is refused: too few tags may go",)))
    return result


def _quota(draft: Draft, limit: int) -> list[Outcome]:
    row = Quota.objects.filter(namespace=draft.namespace_id).first()
    used = held(draft.namespace_id) + (row.reserved if row else 0)
    room = limit - used
    said = f"{words(used)} are held or on their way, {words(max(0, room))} would be left of {words(limit)}"
    return [Outcome(draft.repositories, "", "", KEEP if room > 0 else REFUSE, (said,))]


_PLANS = {
    Kind.PRUNING.value: _pruning,
    Kind.RETENTION.value: _retention,
    Kind.PROMOTION.value: _promotion,
    Kind.IMMUTABILITY.value: _immutability,
}
