"""What a policy does, or would do, to one tag: plain data, the same for a rehearsal and the real run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KEEP, REMOVE, PROMOTE, HOLD, SKIP, REFUSE = "keep", "remove", "promote", "hold", "skip", "refuse"
ACTS = (KEEP, REMOVE, PROMOTE, HOLD, SKIP, REFUSE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`tag` "" is a manifest without tags. `target` is "ns/name:tag" of a promotion. One reason a line, for people."""

    repository: str
    tag: str
    digest: str
    act: str
    reasons: tuple[str, ...]
    target: str = ""

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": list(self.reasons)}

    def __str__(self) -> str:
        return f"{self.act} {self.name}{f' to {self.target}' if self.target else ''}: {'; '.join(self.reasons)}"
