"""`wharf audit verify`: walks the chain from the newest checkpoint and compares it with the signed head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.events import anchor
from controlplane.events.chain import GENESIS, link
from controlplane.events.models import ChainHead, Checkpoint, Event

_BATCH = 2000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: the event's number, "changed", "removed", "reordered", "truncated" or "forged", a sentence."""

    sequence: int
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    checked: int
    first: int
    last: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(*, limit: int = 100) -> Report:
    """Reads the whole table in batches; stops after `limit` findings. Writes nothing."""
    checkpoint = Checkpoint.objects.order_by("-sequence").first()
    start, hash_ = (checkpoint.sequence, checkpoint.hash) if checkpoint else (0, GENESIS)
    findings: list[Finding] = []
    if checkpoint and not anchor.signed("checkpoint", start, hash_, checkpoint.signature):
        findings.append(Finding(start, "forged", f"The checkpoint at {start} carries no signature of this cluster."))
    walk = _Walk(start, hash_)
    # read before the walk, so that neither is newer than the rows; what the chain said at their numbers is noted on the way
    head_file = anchor.read_unchecked()
    head = ChainHead.objects.filter(pk=1).first()
    marks = {head_file[0].sequence if head_file else 0, head.sequence if head else 0}
    seen = {start: hash_}
    for event in _rows(start):
        findings += walk.step(event)
        if event.id in marks:
            seen[event.id] = event.hash
        if len(findings) >= limit:
            break
    else:
        findings += _head(walk, head, seen) + _file(walk, head_file, seen)
    return Report(walk.checked, start + 1, walk.sequence, tuple(findings[:limit]))


def _rows(start: int) -> Iterator[Event]:
    after = start
    while batch := list(Event.objects.filter(id__gt=after).order_by("id")[:_BATCH]):
        yield from batch
        after = batch[-1].id


class _Walk:
    """Where the walk is: the number and the hash that the next row must stand on."""

    def __init__(self, sequence: int, hash_: str) -> None:
        self.sequence = sequence
        self.hash = hash_
        self.checked = 0

    def step(self, event: Event) -> list[Finding]:
        found: list[Finding] = []
        expected = self.sequence + 1
        gap = event.id != expected
        if gap:
            what = (
                f"Event {expected} is missing" if event.id == expected + 1 else f"Events {expected} to {event.id - 1} are missing"
            )
            found.append(Finding(expected, "removed", f"{what}."))
        if link(event.prev_hash, event) != event.hash:
            found.append(Finding(event.id, "changed", f"Event {event.id} ({event.kind}) is not what was recorded."))
        elif event.prev_hash != self.hash and not gap:
            found.append(
                Finding(event.id, "reordered", f"Event {event.id} does not follow event {self.sequence}: moved or rewritten.")
            )
        self.sequence, self.hash = event.id, event.hash
        self.checked += 1
        return found


def _head(walk: _Walk, head: ChainHead | None, seen: dict[int, str]) -> list[Finding]:
    if head is None or head.sequence == 0:
        return [Finding(1, "removed", "The chain's head is missing, though there are events.")] if walk.checked else []
    if head.sequence > walk.sequence:
        first = walk.sequence + 1
        return [Finding(first, "truncated", f"Events {first} to {head.sequence} are missing at the end.")]
    if seen.get(head.sequence, head.hash) != head.hash:
        return [Finding(head.sequence, "changed", f"Event {head.sequence} is not the one that the chain's head names.")]
    return []


def _file(walk: _Walk, head_file: tuple[anchor.Anchor, str] | None, seen: dict[int, str]) -> list[Finding]:
    if head_file is None:
        return []
    signed, signature = head_file
    if not anchor.signed("head", signed.sequence, signed.hash, signature):
        return [Finding(signed.sequence, "forged", "The head file carries no signature of this cluster.")]
    if signed.sequence > walk.sequence:
        found = f"The head signed at {signed.at} is event {signed.sequence}, the table ends at {walk.sequence}"
        return [Finding(walk.sequence + 1, "truncated", f"{found}: truncated, or restored from a backup.")]
    if seen.get(signed.sequence, signed.hash) != signed.hash:
        detail = f"Event {signed.sequence} is not the one that was signed at {signed.at}: the chain was rewritten."
        return [Finding(signed.sequence, "forged", detail)]
    return []
