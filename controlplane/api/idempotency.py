"""Idempotency-Key on POST: the same key and body give the same answer for 24 hours, and the work is done once.

The key's row is claimed, in a transaction of its own, before the work. An error answer frees the key, since nothing was done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponse
from django.utils import timezone
from rest_framework.response import Response

from agent.protocol.errors import Conflict, InvalidInput
from controlplane.api.actor import Actor
from controlplane.api.errors import IdempotencyMismatch, InFlight
from controlplane.api.models import IdempotencyKey

LIFETIME = timedelta(hours=24)
MAX_KEY = 128
_KEPT_HEADERS = ("Location", "ETag")


def fingerprint(request: Any) -> str:
    """sha256 over what must be equal for a repetition: method, path with query, body."""
    raw = request._request
    digest = hashlib.sha256()
    for part in (raw.method.encode(), raw.get_full_path().encode(), raw.body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def key_of(request: Any) -> str:
    """The Idempotency-Key of `request`, "" when none came. Raises InvalidInput when it is too long or not printable ASCII."""
    text = str(request.headers.get("Idempotency-Key", "")).strip()
    if len(text) > MAX_KEY or not text.isascii() or (text and not text.isprintable()):
        raise InvalidInput(f"Idempotency-Key must be at most {MAX_KEY} printable ASCII characters.")
    return text


def claim(actor: Actor, key: str, print_: str) -> IdempotencyKey | None:
    """None when this request is the first with `key`, else the row of the first one, answered.

    Raises IdempotencyMismatch (422) for another body, InFlight (409) while the first one runs.
    """
    subject = f"{actor.kind}:{actor.id}"
    IdempotencyKey.objects.filter(actor=subject, key=key, created_at__lt=timezone.now() - LIFETIME).delete()
    try:
        with transaction.atomic():
            IdempotencyKey.objects.create(actor=subject, key=key, fingerprint=print_)
        return None
    except IntegrityError:
        row = IdempotencyKey.objects.filter(actor=subject, key=key).first()
    if row is None:
        raise InFlight("The first request with this Idempotency-Key has just failed: send it again.")
    if row.fingerprint != print_:
        raise IdempotencyMismatch("This Idempotency-Key was used with another request: take a new key for a new request.")
    if row.status is None:
        raise InFlight("The first request with this Idempotency-Key has not ended: ask again in a moment.")
    return row


def run(view: Any, request: Any, actor: Actor, key: str, work: Callable[[], Response]) -> Response | HttpResponse:
    """`work()` once a key. With `view.secret_answer` the body is not kept: a repetition hears that it was shown once."""
    done = claim(actor, key, fingerprint(request))
    if done is not None:
        return _replay(done)
    rows = IdempotencyKey.objects.filter(actor=f"{actor.kind}:{actor.id}", key=key)
    try:
        answer = work()
    except BaseException:
        rows.delete()
        raise
    if answer.status_code >= 400:
        rows.delete()
        return answer
    secret = getattr(view, "secret_answer", False)
    headers = {name: answer[name] for name in _KEPT_HEADERS if name in answer}
    body = b"" if secret else _rendered(view, answer)
    rows.update(status=409 if secret else answer.status_code, headers=headers, body=body)
    return answer


def _rendered(view: Any, answer: Response) -> bytes:
    if answer.data is None:
        return b""
    renderer = view.get_renderers()[0]
    return bytes(renderer.render(answer.data, renderer.media_type, view.get_renderer_context()))


def _replay(row: IdempotencyKey) -> HttpResponse:
    if row.status == 409:
        raise Conflict("That was done, and its secret was shown once: make a new one with a new Idempotency-Key.")
    answer = HttpResponse(bytes(row.body), status=row.status or 200, content_type="application/json")
    for name, value in row.headers.items():
        answer[name] = value
    answer["Idempotent-Replay"] = "true"
    return answer


def expire() -> int:
    """Removes keys older than 24 hours; returns how many. Run by a job."""
    return IdempotencyKey.objects.filter(created_at__lt=timezone.now() - LIFETIME).delete()[0]
