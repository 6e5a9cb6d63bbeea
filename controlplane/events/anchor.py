"""The signed head in a second place: what finds a truncated table, or one rewritten from the first row.

The file WHARF_HOME/audit/head.json holds the newest number and hash with an HMAC under a key derived from the secret key. It is
renewed at most once a minute by whoever commits an event, and by a job.
"""

from __future__ import annotations

import hmac
import json
import threading
import time
from dataclasses import dataclass

import structlog
from django.conf import settings
from django.utils import timezone
from django.utils.crypto import salted_hmac

from agent.protocol.errors import Unavailable
from controlplane.events.models import ChainHead
from controlplane.home import read_private, write_private

log = structlog.get_logger(__name__)

PERIOD = 60.0  # seconds
_SALT = "controlplane.events.anchor"
_last = 0.0
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Anchor:
    sequence: int
    hash: str
    at: str


def sign(purpose: str, sequence: int, hash_: str) -> str:
    """The signature (hex) of a position in the chain; `purpose` keeps heads and checkpoints apart."""
    return salted_hmac(_SALT, f"{purpose}\n{sequence}\n{hash_}", algorithm="sha256").hexdigest()


def signed(purpose: str, sequence: int, hash_: str, signature: str) -> bool:
    return hmac.compare_digest(sign(purpose, sequence, hash_), signature)


def write(*, backwards: bool = False) -> Anchor:
    """Writes the present head; returns it. An older one replaces a newer one only `backwards`: after a backup was restored."""
    head = ChainHead.objects.filter(pk=1).first()
    anchor = Anchor(head.sequence if head else 0, head.hash if head else "0" * 64, timezone.now().isoformat())
    before = read_unchecked()
    if not backwards and before is not None and before[0].sequence > anchor.sequence:
        return before[0]
    body = {
        "sequence": anchor.sequence,
        "hash": anchor.hash,
        "at": anchor.at,
        "signature": sign("head", anchor.sequence, anchor.hash),
    }
    write_private(settings.AUDIT_DIR / "head.json", json.dumps(body).encode())
    return anchor


def read_unchecked() -> tuple[Anchor, str] | None:
    """(anchor, signature) of the file; None when there is none."""
    try:
        body = json.loads(read_private(settings.AUDIT_DIR / "head.json"))
        return Anchor(int(body["sequence"]), str(body["hash"]), str(body["at"])), str(body["signature"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"{settings.AUDIT_DIR}/head.json cannot be read: {error}.") from None


def maybe_write() -> None:
    """Called after commits: writes when a minute has passed. A full disk must not fail a request that is already committed."""
    global _last
    with _lock:
        if _last and time.monotonic() - _last < PERIOD:
            return
        _last = time.monotonic()
    try:
        write()
    except (OSError, Unavailable) as error:
        log.error("head_not_written", error=str(error))
