"""A policy before it is saved: checked plain data, and whose right it is to save it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.protocol.errors import Denied, InvalidInput, NotFound
from agent.protocol.oci import check_name
from controlplane import rbac
from controlplane.api.actor import Actor
from registry.errors import RepositoryUnknown
from registry.models import Namespace, Policy, Repository
from registry.queries import access
from registry.queries.candidates import promotions
from registry.rules import Rule, check_pattern, check_rules, check_template
from registry.rules.retention import Keep, check_keeps

Kind = Policy.Kind
PROMOTION_FIELDS = (
    "tag",
    "component",
    "licence",
    "vulnerability_critical",
    "vulnerability_major",
    "vulnerability_minor",
    "vulnerability_all",
)


class PromotionCycle(InvalidInput):
    """Promotions would go round for ever."""

    code = "promotion_cycle"


@dataclass(frozen=True)
class Draft:
    """The columns of a Policy that decide; it is judged like one. `id` is the saved policy's that it would replace."""

    kind: str
    namespace_id: int
    repository_id: str | None
    repositories: str = "**"
    tags: str = "*"
    rules: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    since: datetime | None = None
    enabled: bool = True
    id: str = ""

    @classmethod
    def of(cls, policy: Policy) -> Draft:
        return cls(
            kind=policy.kind,
            namespace_id=policy.namespace_id,
            repository_id=policy.repository_id,
            repositories=policy.repositories,
            tags=policy.tags,
            rules=policy.rules,
            options=policy.options,
            since=policy.since,
            enabled=policy.enabled,
            id=policy.pk,
        )

    @property
    def judged_rules(self) -> tuple[Rule, ...]:
        return check_rules(self.rules)

    @property
    def keeps(self) -> tuple[Keep, ...]:
        return check_keeps(self.rules)


def place(actor: Actor, kind: str, repository: str, namespace: str) -> tuple[Namespace, Repository | None]:
    """Where the policy would be. Raises what stands in its way: NotFound, Denied, InvalidInput."""
    if kind not in Kind.values:
        raise InvalidInput(f"a policy's kind is one of {', '.join(Kind.values)}", field="kind")
    if bool(repository) == bool(namespace):
        raise InvalidInput("name either the repository or the namespace that the policy is for", field="repository")
    if repository:
        row = Repository.objects.select_related("namespace", "collection").filter(full_name=repository).first()
        if row is None:
            raise RepositoryUnknown(f"there is no repository {repository}, or you may not see it")
        rbac.require(actor, "Repository Policy", row)
        return row.namespace, row
    found = Namespace.objects.filter(name=namespace).first()
    govern(actor, namespace)
    if found is None:
        raise NotFound(f"there is no namespace {namespace}; it begins with its first repository")
    return found, None


def govern(actor: Actor, namespace: str) -> None:
    """Raises unless `actor` owns the namespace or is an administrator."""
    rbac.explain(actor, "Repository Policy", None)  # the question is asked; what decides is the namespace
    if actor.in_scope("Repository Policy") and (
        actor.is_admin or (actor.kind == "user" and access.owns_namespace(actor, namespace))
    ):
        return
    raise Denied(
        f"policies of the whole namespace {namespace} are made by its owners and by administrators; you may make them for"
        " repositories where you hold Repository Policy",
        operation="Repository Policy",
    )


def check(actor: Actor, draft: Draft, source: Repository | None) -> Draft:
    """The draft with its fields checked. Raises RuleInvalid, PatternInvalid, TemplateInvalid, PromotionCycle, Denied, …"""
    check_pattern(draft.tags)
    check_pattern(draft.repositories)
    checked: dict[str, Any] = {"rules": [], "options": {}}
    if draft.kind == Kind.PRUNING:
        rules = check_rules(draft.rules)
        if not rules:
            raise InvalidInput("a pruning policy without a rule would remove every tag; say which ones", field="rules")
        checked["rules"] = [rule.as_dict() for rule in rules]
    elif draft.kind == Kind.RETENTION:
        checked["rules"] = [keep.as_dict() for keep in check_keeps(draft.rules)]
        checked["options"] = {"untagged": bool(draft.options.get("untagged"))}
    elif draft.kind == Kind.PROMOTION:
        if source is None:
            raise InvalidInput("a promotion policy belongs to one repository", field="repository")
        checked["rules"] = [rule.as_dict() for rule in check_rules(draft.rules, PROMOTION_FIELDS)]
        checked["options"] = _promotion(actor, draft, source)
    elif draft.rules:
        raise InvalidInput("an immutability policy has a pattern of tags and no rules", field="rules")
    return Draft(**{**draft.__dict__, **checked})


def _promotion(actor: Actor, draft: Draft, source: Repository) -> dict[str, str]:
    target = check_name(str(draft.options.get("target") or ""))
    template = check_template(str(draft.options.get("template") or "%n"))
    check_target(actor, source, target)
    if draft.enabled:
        _refuse_cycle(source.full_name, target, draft.id)
    return {"target": target, "template": template}


def check_target(actor: Actor, source: Repository, target: str) -> Repository:
    """May `actor` have images of `source` promoted into `target` for good? Raises RepositoryUnknown, Denied."""
    row = Repository.objects.select_related("collection", "namespace").filter(full_name=target).first()
    if row is None:
        raise RepositoryUnknown(f"there is no repository {target} to promote into; create it first, or you may not see it")
    rbac.require(actor, "Repository Push", row)
    own = row.namespace_id == source.namespace_id or access.owns_namespace(actor, row.namespace.name)
    if not (actor.is_admin or own):
        raise Denied(
            f"{target} is in another namespace, which you do not own: a policy that promotes there is made by an administrator",
            operation="Repository Policy",
        )
    return row


def _refuse_cycle(source: str, target: str, replaced: str) -> None:
    edges: dict[str, set[str]] = {}
    for key, start, end in promotions():
        if key != replaced:
            edges.setdefault(start, set()).add(end)
    waiting, seen = [(target, [source, target])], set()
    while waiting:
        here, path = waiting.pop()
        if here == source:
            raise PromotionCycle(
                f"promotions would go round for ever: {' → '.join(path)}; point one of these policies elsewhere", path=path
            )
        if here not in seen:
            seen.add(here)
            waiting.extend((following, [*path, following]) for following in edges.get(here, ()))
