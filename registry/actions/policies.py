"""Saving, changing and removing policies. Each says its right itself, so that REST, console and command line cannot differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import InvalidInput, PreconditionFailed
from controlplane import events, rbac
from controlplane.api.actor import Actor
from controlplane.jobs import enqueue
from registry.actions.drafts import Draft, Kind, check, govern, place
from registry.models import Policy, Repository
from registry.queries import standing

EDITABLE = frozenset({"enabled", "repositories", "tags", "rules", "options"})
JOB = "registry.policies"
AT_ONCE = (Kind.PRUNING, Kind.RETENTION, Kind.PROMOTION)


class PolicyChanged(PreconditionFailed):
    code = "policy_changed"


def draft(
    actor: Actor,
    kind: str,
    *,
    repository: str = "",
    namespace: str = "",
    initial: bool = True,
    **fields: Any,
) -> tuple[Draft, Repository | None]:
    """A checked draft, and the repository that it is for. `initial`: also of tags that are there already.

    Raises NotFound, Denied, InvalidInput and its kin.
    """
    if unknown := set(fields) - EDITABLE:
        raise InvalidInput(f"a policy has no field {', '.join(sorted(unknown))}")
    home, row = place(actor, kind, repository, namespace)
    since = None if initial else timezone.now()
    made = Draft(kind, home.pk, row.pk if row else None, since=since, **{key: value for key, value in fields.items()})
    return check(actor, made, row), row


def create_policy(actor: Actor, kind: str, *, repository: str = "", namespace: str = "", **fields: Any) -> Policy:
    """A new policy; what it decides about tags that are there already is done by a job at once. Raises what `draft` raises."""
    with transaction.atomic():
        checked, _ = draft(actor, kind, repository=repository, namespace=namespace, **fields)
        columns = {key: value for key, value in checked.__dict__.items() if key != "id"}
        row = Policy.objects.create(**columns, author_id=actor.id, author_name=actor.name)
        _record(actor, row, "policy.created")
        _run_at_once(actor, row)
    return row


def redraft(actor: Actor, policy: Policy, **fields: Any) -> Draft:
    """The draft of a change to `policy`, checked. Raises what `draft` raises."""
    if unknown := set(fields) - EDITABLE:
        raise InvalidInput(f"a policy has no changeable field {', '.join(sorted(unknown))}")
    require(actor, policy)
    return check(actor, Draft(**{**Draft.of(policy).__dict__, **fields}), policy.repository)


def update_policy(actor: Actor, policy: Policy, version: int | None, **fields: Any) -> Policy:
    """Change some of EDITABLE; the changed policy runs at once. Raises PolicyChanged and what `draft` raises."""
    with transaction.atomic():
        row = _locked(actor, policy, version)
        checked = redraft(actor, row, **fields)
        for name in EDITABLE:
            setattr(row, name, getattr(checked, name))
        row.author_id, row.author_name, row.version = actor.id, actor.name, row.version + 1
        row.save()
        _record(actor, row, "policy.updated")
        _run_at_once(actor, row)
    return row


def delete_policy(actor: Actor, policy: Policy, version: int | None) -> None:
    """The policy goes; what it did stays. Raises PolicyChanged, Denied."""
    with transaction.atomic():
        row = _locked(actor, policy, version)
        key = row.pk
        row.delete()
        row.pk = key
        _record(actor, row, "policy.deleted")


def run_policy(actor: Actor, policy: Policy, dry_run: bool = False) -> Any:
    """Enqueue a run now; returns the Job. Raises Denied, InvalidInput for immutability, which is no work."""
    require(actor, policy)
    if policy.kind not in AT_ONCE:
        raise InvalidInput("an immutability policy holds by itself; there is nothing to run")
    return enqueue(JOB, {"policy": policy.pk, "dry_run": dry_run}, actor=actor)


def require(actor: Actor, policy: Policy) -> None:
    """Raises unless `actor` may govern where the policy is."""
    if policy.repository is not None:
        rbac.require(actor, "Repository Policy", policy.repository)
    else:
        govern(actor, policy.namespace.name)


def _locked(actor: Actor, policy: Policy, version: int | None) -> Policy:
    rows = Policy.objects.select_for_update(of=("self",)).select_related("namespace__collection", "repository__collection")
    row = rows.get(pk=policy.pk)
    require(actor, row)
    if version is not None and row.version != version:
        raise PolicyChanged(f"the policy was changed by somebody else (version {row.version}); read it again")
    return row


def _run_at_once(actor: Actor, row: Policy) -> None:
    if row.enabled and row.since is None and row.kind in AT_ONCE:
        enqueue(JOB, {"policy": row.pk}, actor=actor, dedup_key=f"{JOB}:{row.pk}")


def _record(actor: Actor, row: Policy, kind: str) -> None:
    home: Sequence[Any] = (row.repository, row.namespace)
    collection = next(item.collection for item in home if item is not None)
    name = row.repository.full_name if row.repository else row.namespace.name
    data = {"id": row.pk, "policy": row.kind, "name": name, "enabled": row.enabled, "rules": row.rules, "options": row.options}
    target = f"repository/{row.repository_id}" if row.repository else f"namespace/{name}"
    standing.changed()
    events.record(kind, actor=actor, target=target, collection_path=collection.path, data={**data, "tags": row.tags})
