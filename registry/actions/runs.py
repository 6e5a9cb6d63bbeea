"""Running policies: the plan of registry.actions.plans, carried out tag by tag, each judged again under its locks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import WharfError
from controlplane import events
from registry.actions import images, promotion
from registry.actions.drafts import Draft
from registry.actions.plans import plan
from registry.models import Policy, Repository
from registry.rules.outcome import PROMOTE, REFUSE, REMOVE, Outcome

Report = Callable[[int, int, str], None]  # done, of how many, what happened


def run(policy: Policy, report: Report, *, dry_run: bool = False, names: list[str] | None = None) -> dict[str, int]:
    """One run; returns {"looked_at", "done", "kept", "failed"}. A tag that cannot go is told and left; the others go on."""
    now = timezone.now()
    outcomes = plan(Draft.of(policy), now, names)
    counts: Counter[str] = Counter(looked_at=len(outcomes), done=0, kept=0, failed=0)
    for number, outcome in enumerate(outcomes, 1):
        said = f"would {outcome}" if dry_run else str(outcome)
        if outcome.act in (REMOVE, PROMOTE) and not dry_run:
            said = _carry_out(policy, outcome, counts)
        else:
            key = "done" if outcome.act in (REMOVE, PROMOTE) else "failed" if outcome.act == REFUSE else "kept"
            counts[key] += 1
        report(number, len(outcomes), said)
    result = dict(counts)
    if not dry_run:
        _finish(policy, now, result, quiet=names is not None and not counts["done"])
    return result


def _carry_out(policy: Policy, outcome: Outcome, counts: Counter[str]) -> str:
    try:
        if _act(policy, outcome):
            counts["done"] += 1
            return str(outcome)
        counts["kept"] += 1
        return f"{outcome.name} changed meanwhile; left as it is"
    except WharfError as error:
        counts["failed"] += 1
        return f"{outcome.name} was left as it is: {error.detail}"


def _act(policy: Policy, outcome: Outcome) -> bool:
    actor = promotion.actor_of(policy)
    found = Repository.objects.select_related("collection", "namespace__collection")
    repository = found.filter(full_name=outcome.repository).first()
    if repository is None:
        return False
    if outcome.act == REMOVE and outcome.tag:
        return images.remove_tag(actor, repository, outcome.tag, outcome.digest)
    if outcome.act == REMOVE:
        return images.remove_untagged(actor, repository, outcome.digest)
    target_name, _, tag = outcome.target.rpartition(":")
    target = found.filter(full_name=target_name).first()
    if target is None:
        return False
    return promotion.promote(actor, repository, outcome.digest, target, tag, policy=policy.pk, source_tag=outcome.tag)


def _finish(policy: Policy, now: datetime, result: dict[str, int], quiet: bool) -> None:
    with transaction.atomic():
        Policy.objects.filter(pk=policy.pk).update(ran_at=now, ran=result)
        if result["done"] and not quiet:
            home = policy.repository or policy.namespace
            name = policy.repository.full_name if policy.repository else policy.namespace.name
            events.record(
                "registry.policy_ran",
                actor=promotion.actor_of(policy),
                target=f"repository/{policy.repository_id}" if policy.repository else f"namespace/{name}",
                collection_path=home.collection.path,
                data={"id": policy.pk, "policy": policy.kind, "name": name, **result},
            )
