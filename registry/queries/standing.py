"""What stands in the way of every push: read-only mode, immutability rules, quotas. Read once a change, not once a push.

It is as fresh as the policy version that the request was judged under (registry.queries.policy): whoever changes one of these
records an event in the same transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from registry.errors import RegistryReadOnly
from registry.models import Policy, Quota, ReadOnly, Repository
from registry.queries import policy
from registry.rules.immutability import ImmutableRule, holding


@dataclass(frozen=True, slots=True)
class Standing:
    read_only: str  # the reason; "" = pushes are welcome
    immutable: tuple[ImmutableRule, ...]
    quotas: frozenset[int]  # ids of the namespaces that have one

    def rules_of(self, repository: Repository) -> tuple[ImmutableRule, ...]:
        wanted = (repository.namespace_id, repository.pk, repository.name)
        return tuple(rule for rule in self.immutable if rule.fits(*wanted)) if self.immutable else ()

    def held(self, repository: Repository, tag: str) -> str:
        """The rule that forbids to overwrite or delete `tag`, in words; "" = none."""
        return holding(self.rules_of(repository), repository.immutable_tags, tag)


_cache: tuple[int, Standing] | None = None


def current(*, fresh: bool = False) -> Standing:
    """`fresh` asks the database whether something changed: for callers whose request was not judged by registry.v2.auth."""
    global _cache  # one a process; a rival's equal value may replace it
    version = policy.clock.standing(fresh=fresh)
    if _cache is None or _cache[0] != version:
        _cache = (version, _read())
    return _cache[1]


def _read() -> Standing:
    read_only = ReadOnly.objects.values_list("reason", flat=True).first() or ""
    rows = Policy.objects.filter(kind=Policy.Kind.IMMUTABILITY, enabled=True)
    rules = rows.values_list("id", "namespace_id", "repository_id", "repositories", "tags")
    return Standing(
        read_only,
        tuple(ImmutableRule(key, namespace, repository or "", names, tags) for key, namespace, repository, names, tags in rules),
        frozenset(Quota.objects.values_list("namespace_id", flat=True)),
    )


def changed() -> None:
    """Call it where one of these is changed: this process knows at once, the others with their next request."""
    transaction.on_commit(lambda: current(fresh=True))


def forget() -> None:
    """For tests that empty the tables."""
    global _cache  # see above
    _cache = None
    policy.clock.forget()


def refuse_writes(*, fresh: bool = False) -> None:
    """Raises RegistryReadOnly while the registry is read-only."""
    if reason := current(fresh=fresh).read_only:
        raise RegistryReadOnly(f"the registry is read-only: {reason}; pulls work, pushes and deletes wait until it is over")
