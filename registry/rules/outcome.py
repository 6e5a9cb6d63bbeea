"""What a policy does, or would do, to one tag: plain data, the same for a rehearsal and the real run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

KEEP, REMOVE, PROMOTE, HOLD, SKIP, REFUSE = "keep", "remove", "promote", "hold", "skip", "refuse"
ACTS = (KEEP, REMOVE, PROMOTE, HOLD, SKIP, REFUSE)
IN_USE = "in use"  # a reason; by whom, Outcome.holders says


@dataclass(frozen=True, slots=True)
class Outcome:
    """`tag` "" is a manifest without tags. `target` is "ns/name:tag" of a promotion. One reason a line, for people.

    `holders` ("service/<id>") are those who lease the image: the reason IN_USE is about them. Their names are not everybody's to
    know: `named` puts in what one reader may see.
    """

    repository: str
    tag: str
    digest: str
    act: str
    reasons: tuple[str, ...]
    target: str = ""
    holders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"

    def named(self, words: Mapping[str, str]) -> Outcome:
        """With the reason IN_USE in full: "in use by service web"; `words` are those of each holder."""
        by = f"{IN_USE} by {', '.join(dict.fromkeys(words.get(holder, holder) for holder in self.holders))}"
        return replace(self, reasons=tuple(by if reason == IN_USE and self.holders else reason for reason in self.reasons))

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reasons": list(self.reasons), "holders": list(self.holders)}

    def __str__(self) -> str:
        return f"{self.act} {self.name}{f' to {self.target}' if self.target else ''}: {'; '.join(self.named({}).reasons)}"
