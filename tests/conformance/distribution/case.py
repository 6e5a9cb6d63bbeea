"""A case: one rule of the specification, as a function of a registry. A group is what is red or green as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.conformance.distribution.client import Registry

Check = Callable[..., None]


@dataclass(frozen=True)
class Case:
    id: str
    group: str
    run: Callable[[Registry], None]


CASES: list[Case] = []


def case(group: str, name: str, *variants: object) -> Callable[[Check], Check]:
    """Register the function under `group/name`; with variants, once for each, passed as the second argument."""

    def register(check: Check) -> Check:
        for variant in variants or (None,):
            CASES.append(_case(group, name, check, variant))
        return check

    return register


def _case(group: str, name: str, check: Check, variant: object) -> Case:
    if variant is None:
        return Case(f"{group}/{name}", group, check)
    label = getattr(variant, "__name__", str(variant))
    return Case(f"{group}/{name}/{label}", group, lambda registry: check(registry, variant))


def groups() -> Iterator[str]:
    yield from dict.fromkeys(item.group for item in CASES)
