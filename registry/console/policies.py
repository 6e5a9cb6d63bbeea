"""The tab Policies: what keeps, limits and moves a repository's images, drafted, rehearsed, saved, run; the namespace's quota."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any

from django.db.models import Q
from django.http import QueryDict
from django.urls import reverse

from agent.protocol.errors import InvalidInput, NotFound, WharfError
from registry.actions import plans, policies, quotas
from registry.actions.drafts import Draft, place
from registry.actions.repositories import update_repository
from registry.console import drafting
from registry.console.tabs import RepositoryPage
from registry.models import Policy, Quota
from registry.queries.access import owns_namespace
from registry.rules import matches
from registry.rules.outcome import Outcome
from registry.running import Holder, holders_of

SHOWN = 500  # outcomes on a page
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class Policies(RepositoryPage):
    operation = "Repository Policy"
    template = "registry/policies.html"
    tab = "policies"

    def tab_context(self) -> dict[str, Any]:
        row = self.repository
        return {
            "policies": [
                {"row": policy, "says": drafting.sentences(policy), "mine": self._governs(policy)} for policy in self._rows()
            ],
            "kinds": drafting.KINDS,
            "may_update": self.may("Repository Update", row),
            "may_limit": self.may("Registry Update"),
            "quota_row": Quota.objects.filter(namespace=row.namespace_id).first(),
            "units": UNITS,
        }

    def _rows(self) -> list[Policy]:
        row = self.repository
        found = Policy.objects.filter(Q(repository=row) | Q(repository=None, namespace=row.namespace_id))
        found = found.select_related("namespace__collection", "repository__collection")
        return [policy for policy in found if policy.repository_id or matches(policy.repositories, row.name)]

    def _governs(self, policy: Policy) -> bool:
        return bool(policy.repository_id) or self.actor.is_admin or owns_namespace(self.actor, policy.namespace.name)

    def _chosen(self) -> Policy:
        self.require(self.repository, operation="Repository Policy")
        wanted = self.request.POST.get("policy", "")
        found = next((policy for policy in self._rows() if policy.pk == wanted), None)
        if found is None:
            raise NotFound("There is no such policy here any more.")
        return found

    def act_run(self) -> str:
        job = policies.run_policy(self.actor, self._chosen())
        return reverse("job", args=[job.pk])

    def act_switch(self) -> None:
        on = self.request.POST.get("on") == "1"
        policies.update_policy(self.actor, self._chosen(), None, enabled=on)
        self.done(f"The policy is {'on' if on else 'off'}.")

    def act_remove(self) -> None:
        policies.delete_policy(self.actor, self._chosen(), None)
        self.done("The policy was removed; what it did stays.")

    def act_tags(self) -> None:
        row = self.repository
        self.require(row, operation="Repository Update")
        on = self.request.POST.get("on") == "1"
        update_repository(self.actor, row, None, immutable_tags=on)
        self.done("No tag can be overwritten or deleted now." if on else "Tags can be overwritten and deleted again.")

    def act_unlimit(self) -> None:
        row = self.repository
        self.require(row, operation="Repository Update")
        update_repository(self.actor, row, None, tag_limit=0)
        self.done("There is no limit of tags any more.")

    def act_quota(self) -> None:
        self.require(operation="Registry Update")
        data = self.request.POST
        try:
            limit = int(float(data.get("amount", "")) * UNITS[data.get("unit", "")])
        except (ValueError, KeyError, OverflowError):
            raise InvalidInput("a quota is a number and its unit, like 10 GiB", field="amount") from None
        quotas.set_quota(self.actor, self.repository.namespace.name, limit)
        self.done(f"The quota of {self.repository.namespace.name} is set.")

    def act_unquota(self) -> None:
        self.require(operation="Registry Update")
        quotas.remove_quota(self.actor, self.repository.namespace.name)
        self.done(f"{self.repository.namespace.name} has no quota any more.")


class PolicyDraft(RepositoryPage):
    """A draft lives in the page's address until it is saved: what was rehearsed there is to the letter what is saved."""

    operation = "Repository Policy"
    template = "registry/policy_draft.html"
    tab = "policies"

    @cached_property
    def saved(self) -> Policy | None:
        """The policy that the draft would replace."""
        key = self.request.GET.get("policy", "")
        if not key:
            return None
        home = Q(repository=self.repository) | Q(repository=None, namespace=self.repository.namespace_id)
        found = Policy.objects.filter(home, pk=key).select_related("namespace__collection", "repository__collection").first()
        if found is None:
            raise NotFound("There is no such policy here any more.")
        policies.require(self.actor, found)
        return found

    @property
    def kind(self) -> str:
        kind = self.saved.kind if self.saved else self.request.GET.get("kind", "")
        if kind not in drafting.KINDS:
            raise NotFound(f"A policy's kind is one of {', '.join(drafting.KINDS)}.")
        return kind

    @property
    def query(self) -> QueryDict:
        return drafting.query_of(self.saved) if self.saved and "rehearse" not in self.request.GET else self.request.GET

    def tab_context(self) -> dict[str, Any]:
        row, kind, query = self.repository, self.kind, self.query
        outcomes: list[Outcome] | None = None
        problem = ""
        if "rehearse" in query:
            try:
                outcomes = self._rehearsed()
            except WharfError as error:
                problem = error.detail
        return {
            "kind": kind,
            "kind_title": drafting.KINDS[kind][0],
            "kind_text": drafting.KINDS[kind][1],
            "saved": self.saved,
            "form": drafting.form(query, kind),
            "may_govern": kind not in (Policy.Kind.PROMOTION, plans.TAG_LIMIT)
            and (self.actor.is_admin or owns_namespace(self.actor, row.namespace.name)),
            "problem": problem,
            "rehearsed": outcomes is not None,
            "outcomes": self._shown((outcomes or [])[:SHOWN]),
            "more": max(0, len(outcomes or []) - SHOWN),
            "counts": sorted(Counter(item.act for item in outcomes or []).items()),
        }

    def _shown(self, outcomes: list[Outcome]) -> list[tuple[str, Outcome, list[Holder]]]:
        """(state, outcome, who holds the image)."""
        known = holders_of(self.actor, (holder for item in outcomes for holder in item.holders))
        return [
            (drafting.TONES[item.act], item, list(dict.fromkeys(known[holder] for holder in item.holders))) for item in outcomes
        ]

    def _home(self) -> dict[str, Any]:
        row = self.repository
        whole = self.request.GET.get("scope") == "namespace"
        home = {"namespace": row.namespace.name} if whole else {"repository": row.full_name}
        return {**home, "initial": "later" not in self.request.GET}

    def _rehearsed(self) -> list[Outcome]:
        fields = drafting.fields_of(self.request.GET, self.kind)
        if self.kind == plans.TAG_LIMIT:
            home, row = place(self.actor, Policy.Kind.PRUNING, self.repository.full_name, "")
            return plans.rehearse(
                Draft(plans.TAG_LIMIT, home.pk, row.pk if row else None), plans.limit_of(self.request.GET.dict())
            )
        if self.saved:
            return plans.rehearse(policies.redraft(self.actor, self.saved, **fields))
        return plans.rehearse(policies.draft(self.actor, self.kind, **self._home(), **fields)[0])

    def act_save(self) -> str:
        row, query = self.repository, self.request.GET
        self.require(row, operation="Repository Policy")
        fields = drafting.fields_of(query, self.kind)
        if self.kind == plans.TAG_LIMIT:
            self.require(row, operation="Repository Update")
            update_repository(self.actor, row, None, tag_limit=plans.limit_of(query.dict()))
        elif self.saved:
            version = query.get("version", "")
            policies.update_policy(self.actor, self.saved, int(version) if version.isdecimal() else None, **fields)
        else:
            policies.create_policy(self.actor, self.kind, **self._home(), **fields)
        self.done(f"{drafting.KINDS[self.kind][0]} is saved.")
        return reverse("repository-policies", args=[row.full_name])
