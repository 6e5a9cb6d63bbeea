"""What a policy sees of a tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from registry.rules.outcome import IN_USE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tag, or with tag "" a manifest without one. Everything that only a scan can tell is None until one has."""

    tag: str
    digest: str
    pushed_at: datetime
    pulled_at: datetime | None = None  # None = never
    immutable: str = ""  # the rule that holds it, in words; "" = none
    holders: tuple[str, ...] = ()  # "task/<id>", … that lease its digest
    components: frozenset[str] | None = None
    licences: frozenset[str] | None = None
    vulnerabilities: Mapping[str, int] | None = None  # "critical", "major", "minor" -> how many

    @property
    def name(self) -> str:
        return self.tag or self.digest

    @property
    def protected(self) -> tuple[str, ...]:
        """Why no policy may remove it; () when one may."""
        immutable = (f"immutable by {self.immutable}",) if self.immutable else ()
        return (*immutable, IN_USE) if self.holders else immutable

    @property
    def active_at(self) -> datetime:
        """When somebody last pushed or pulled it. One that was never pulled counts from its push, so that a new one is safe."""
        return self.pushed_at if self.pulled_at is None else max(self.pushed_at, self.pulled_at)
