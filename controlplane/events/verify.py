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
    """One thing that is wrong: at which event number, what kind ("changed", "removed", "reordered", "truncated", "forged"), a sentence."""

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
    # what the chain said at the number of the signed head, noted on the way; the file is read first, so that it is never newer
    head_file = anchor.read_unchecked()
    seen: str | None = hash_ if head_file and head_file[0].sequence == start else None
    for event in _rows(start):
        findings += walk.step(event)
        if head_file and event.id == head_file[0].sequence:
            seen = event.hash
        if len(findings) >= limit:
            break
    else:
        findings += _ends(walk, head_file, seen)
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


def _ends(walk: _Walk, head_file: tuple[anchor.Anchor, str] | None, seen: str | None) -> list[Finding]:
    findings: list[Finding] = []
    head = ChainHead.objects.filter(pk=1).first()
    if head is not None and head.sequence > walk.sequence:
        findings.append(
            Finding(walk.sequence + 1, "truncated", f"Events {walk.sequence + 1} to {head.sequence} are missing at the end.")
        )
    elif head is not None and head.sequence == walk.sequence and head.hash != walk.hash:
        findings.append(Finding(walk.sequence, "changed", "The last event is not the one that the chain's head names."))
    if head_file is None:
        return findings
    signed, signature = head_file
    if not anchor.signed("head", signed.sequence, signed.hash, signature):
        findings.append(Finding(signed.sequence, "forged", "The head file carries no signature of this cluster."))
    elif signed.sequence > walk.sequence:
        detail = f"The signed head of {signed.at} is event {signed.sequence}, the table ends at {walk.sequence}: truncated or restored."
        findings.append(Finding(walk.sequence + 1, "truncated", detail))
    elif seen is not None and seen != signed.hash:
        detail = f"Event {signed.sequence} is not the one that was signed at {signed.at}: the chain was rewritten."
        findings.append(Finding(signed.sequence, "forged", detail))
    return findings
