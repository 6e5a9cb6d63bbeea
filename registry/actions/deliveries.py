"""Telling endpoints: a delivery is a row, made in the transaction of the reaction to its event, and sent by a job.

The job retries with back-off and survives a kill: an endpoint may hear of an event twice, under one delivery id, and never not at
all while it answers within the attempts. An endpoint that fails DISABLE_AFTER deliveries in a row is switched off.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import timedelta

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from agent.protocol.errors import Unavailable, WharfError
from controlplane import events
from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from controlplane.jobs import enqueue
from registry.actions.reactions import reaction
from registry.models import Delivery, Webhook
from registry.queries import payloads
from registry.queries.webhooks import concerned
from registry.remote.transport import Answer, Tls, send_once
from registry.sealed import unseal

JOB = "registry.webhook"
ATTEMPTS = 6
BACKOFF = 10.0  # seconds before the second attempt, doubled each time: 5 minutes in all
DEADLINE = 15.0  # seconds for one request with everything
EXCERPT = 1024  # bytes of an answer that are kept
KEPT = 200  # deliveries a webhook
KEPT_DAYS = 30
STUCK = 24 * 3600.0  # seconds after which a delivery whose job is gone counts as failed; workers may be away for long
DISABLE_AFTER = 10


class DeliveryFailed(Unavailable):
    code = "delivery_failed"


@reaction("webhooks", "tag.", "manifest.", "scan.", "repository.", "mirror.", "scanner.")
def tell(event: Event) -> None:
    """Queue a delivery to everybody whom the event concerns."""
    for notice in payloads.notices(event):
        for hook in concerned(notice.repository, notice.type):
            if hook.created_at > event.at:
                continue  # it was subscribed between the event and this look
            row, made = Delivery.objects.get_or_create(
                webhook=hook,
                event_id=event.id,
                type=notice.type,
                subject=notice.subject,
                origin="",
                defaults={"body": payloads.body(hook, notice, event.id)},
            )
            if made:
                queue(row)


def queue(row: Delivery) -> None:
    """In the caller's transaction; trims the log."""
    enqueue(JOB, {"delivery": row.pk}, actor=SYSTEM)
    old = Delivery.objects.filter(webhook_id=row.webhook_id).exclude(state=Delivery.State.QUEUED).order_by("-created_at", "-id")
    Delivery.objects.filter(pk__in=list(old.values_list("pk", flat=True)[KEPT : KEPT + 50])).delete()


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Hex of HMAC-SHA256 over "<timestamp>.<body>": a receiver checks both, so that an old delivery cannot be replayed."""
    return hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def send(delivery_id: str, *, last: bool) -> str:
    """One attempt; returns how it went. Raises DeliveryFailed when another one is to follow. `last`: none will."""
    row = Delivery.objects.select_related("webhook").filter(pk=delivery_id).first()
    if row is None or row.state != Delivery.State.QUEUED:
        return "nothing to do: the delivery is removed or done"
    hook, test = row.webhook, row.event_id == 0
    if not hook.active and not test and not row.origin:
        Delivery.objects.filter(pk=row.pk).update(state=Delivery.State.FAILED, error="the webhook is switched off")
        return "not sent: the webhook is switched off"
    answer, error = _attempt(row, hook)
    good = answer is not None and 200 <= answer.status < 300
    last = last or test or (isinstance(error, WharfError) and not error.retry)
    what = _note(row, hook, answer, "" if good else _why(answer, error), good=good, last=last)
    if not good and not last:
        raise DeliveryFailed(what)
    return what


def _attempt(row: Delivery, hook: Webhook) -> tuple[Answer | None, Exception | None]:
    body, now = row.body.encode(), int(timezone.now().timestamp())
    headers = {
        "Content-Type": payloads.CONTENT_TYPES[hook.format],
        "Wharf-Event": row.type,
        "Wharf-Delivery": row.seen_as,
        "Wharf-Signature": f"t={now},v1={signature(unseal(hook.sealed_secret, f'webhook:{hook.pk}'), now, body)}",
    }
    try:
        return send_once(hook.url, body, headers, tls=Tls(hook.tls_verify, hook.tls_ca), deadline=DEADLINE, limit=EXCERPT), None
    except WharfError as error:
        return None, error


def _why(answer: Answer | None, error: Exception | None) -> str:
    if answer is None:
        return str(error)[:500]
    if 300 <= answer.status < 400:
        return f"the endpoint redirects ({answer.status}); give the address it redirects to"
    return f"the endpoint answered {answer.status}"


def _note(row: Delivery, hook: Webhook, answer: Answer | None, why: str, *, good: bool, last: bool) -> str:
    """Write down how an attempt went, in the log and at the webhook."""
    state = Delivery.State.DELIVERED if good else Delivery.State.FAILED if last else Delivery.State.QUEUED
    now = timezone.now()
    with transaction.atomic():
        Delivery.objects.filter(pk=row.pk).update(
            state=state,
            attempts=F("attempts") + 1,
            tried_at=now,
            status=None if answer is None else answer.status,
            excerpt="" if answer is None else answer.body.decode("utf-8", "replace").replace("\0", "\ufffd"),
            duration=0 if answer is None else round(answer.seconds, 3),
            error=why,
        )
        if good:
            Webhook.objects.filter(pk=hook.pk).update(failures=0, last_success_at=now)
        elif last and row.event_id:
            _failed(hook.pk, why)
    return "delivered" if good else why


def _failed(pk: str, why: str) -> None:
    """One more delivery was given up; too many in a row switch the webhook off."""
    hook = Webhook.objects.select_for_update(of=("self",)).filter(pk=pk).first()
    if hook is None:
        return
    hook.failures += 1
    if hook.active and hook.failures >= DISABLE_AFTER:
        hook.active = False
        hook.disabled_reason = f"switched off after {hook.failures} failed deliveries; the last one: {why}"[:300]
        hook.version += 1
        home = hook.repository.collection if hook.repository else hook.namespace.collection if hook.namespace else None
        events.record(
            "webhook.disabled",
            actor=SYSTEM,
            target=f"webhook/{hook.pk}",
            collection_path=home.path if home else "/",
            data={"scope": hook.scope, "reason": hook.disabled_reason},
        )
    hook.save(update_fields=["failures", "active", "disabled_reason", "version"])


def expire() -> dict[str, int]:
    """Old entries of the log go; a delivery whose job was lost with its worker is given up."""
    now = timezone.now()
    removed, _ = Delivery.objects.filter(created_at__lt=now - timedelta(days=KEPT_DAYS)).delete()
    stuck = Delivery.objects.filter(state=Delivery.State.QUEUED, created_at__lt=now - timedelta(seconds=STUCK))
    given_up = stuck.update(state=Delivery.State.FAILED, error="given up: the job that sent it was lost")
    return {"removed": removed, "given_up": given_up}
