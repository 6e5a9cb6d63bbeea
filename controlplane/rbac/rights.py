"""The pure part of the engine: what a list of grants allows. No ORM, so a property test can compare it with brute force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Held:
    """One grant that an actor holds, by value."""

    role: str
    path: str  # of the grant's collection, "/Shared/"
    operations: Mapping[str, Mapping[str, Any]]  # type -> verb -> allowed gates
    subject: str = ""

    def allows(self, type_name: str, verb: str) -> bool:
        return verb in self.operations.get(type_name, {})

    def gates(self, type_name: str, verb: str) -> frozenset[str]:
        return frozenset(self.operations.get(type_name, {}).get(verb, ()))

    def covers(self, path: str) -> bool:
        """Is the grant's collection `path` or an ancestor of it?"""
        return path.lower().startswith(self.path.lower())


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    deciding: tuple[Held, ...]  # the grants that give the operation here
    missing: frozenset[str]  # gates that none of them gives


def judge(held: Iterable[Held], type_name: str, verb: str, path: str, gates: frozenset[str] = frozenset()) -> Verdict:
    """The union over all grants on `path` and its ancestors: each gate may come from any grant that gives the operation."""
    deciding = tuple(grant for grant in held if grant.covers(path) and grant.allows(type_name, verb))
    given = frozenset[str]().union(*(grant.gates(type_name, verb) for grant in deciding))
    missing = gates - given
    return Verdict(bool(deciding) and not missing, deciding, missing)


def reachable(held: Iterable[Held], type_name: str, verb: str) -> list[str]:
    """The shortest list of path prefixes below which the operation is allowed."""
    paths = sorted({grant.path for grant in held if grant.allows(type_name, verb)}, key=len)
    result: list[str] = []
    for path in paths:
        if not any(path.lower().startswith(shorter.lower()) for shorter in result):
            result.append(path)
    return result
