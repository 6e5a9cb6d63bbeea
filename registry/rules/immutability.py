"""Which rule, if any, forbids a tag to be overwritten or deleted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry.rules.pattern import matches


@dataclass(frozen=True, slots=True)
class ImmutableRule:
    """`repository_id` "" means every repository of the namespace whose name fits `repositories`."""

    id: str
    namespace_id: int
    repository_id: str
    repositories: str
    tags: str

    def fits(self, namespace_id: int, repository_id: str, name: str) -> bool:
        if self.repository_id:
            return self.repository_id == repository_id
        return self.namespace_id == namespace_id and matches(self.repositories, name)

    def __str__(self) -> str:
        where = "the repository's" if self.repository_id else "the namespace's"
        return f"{where} immutability rule {self.id} for tags like {self.tags}"


def holding(rules: Iterable[ImmutableRule], whole: bool, tag: str) -> str:
    """What holds `tag`, in words; "" = nothing. `whole`: all tags of the repository are immutable."""
    if whole:
        return "the repository's setting that all its tags are immutable"
    return next((str(rule) for rule in rules if matches(rule.tags, tag)), "")
