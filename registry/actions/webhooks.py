"""Making, changing and removing webhooks; asking for a test or for one more delivery."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from controlplane import events, rbac
from controlplane.api.actor import Actor
from registry.actions.deliveries import queue
from registry.models import Delivery, Namespace, Repository, Webhook
from registry.models.webhook import NAMESPACE_TYPES, REPOSITORY_TYPES, TYPES
from registry.queries import payloads
from registry.queries.webhooks import may_manage
from registry.remote import guard
from registry.remote.errors import RemoteAway
from registry.remote.transport import Tls
from registry.sealed import seal

MAX_OF_ONE_SCOPE = 50
EDITABLE = frozenset({"types", "url", "format", "tls_verify", "tls_ca", "active"})
_SECRET = "whsec_"  # noqa: S105  # a prefix by which scanners of source know our secrets


class WebhookChanged(PreconditionFailed):
    code = "webhook_changed"


def create_webhook(
    actor: Actor,
    *,
    types: Iterable[str],
    url: str,
    repository: str = "",
    namespace: str = "",
    format: str = Webhook.Format.DTR,  # the field's name
    tls_verify: bool = True,
    tls_ca: str = "",
) -> tuple[Webhook, str]:
    """(row, secret): the secret signs every delivery and is never shown again.

    Raises NotFound, Denied, InvalidInput, EgressRefused, Conflict when there are too many.
    """
    home, space = scope_of(actor, repository, namespace)
    row = Webhook(repository=home, namespace=space, created_by=actor.name)
    _assign(row, {"types": list(types), "url": url, "format": format, "tls_verify": tls_verify, "tls_ca": tls_ca})
    secret = _new_secret(row)
    with transaction.atomic():
        if Webhook.objects.filter(repository=home, namespace=space).count() >= MAX_OF_ONE_SCOPE:
            raise Conflict(f"there are {MAX_OF_ONE_SCOPE} webhooks here already; remove one")
        row.save(force_insert=True)
        _record("webhook.created", actor, row)
    return row, secret


def scope_of(actor: Actor, repository: str, namespace: str) -> tuple[Repository | None, Namespace | None]:
    """What a subscription is about, when `actor` may manage it."""
    if repository and namespace:
        raise InvalidInput("name a repository or a namespace, not both")
    home = space = None
    if repository:
        rows = Repository.objects.select_related("collection", "namespace")
        home = rbac.visible(actor, rows).filter(full_name=repository).first()
        if home is None:
            raise NotFound(f"there is no repository {repository}, or you may not see it")
    elif namespace:
        space = Namespace.objects.filter(name=namespace).first()
        if space is None:
            raise NotFound(f"there is no namespace {namespace}, or you may not set its policies")
    may_manage(actor, home, space)
    return home, space


def update_webhook(actor: Actor, webhook: Webhook, version: int | None, **fields: Any) -> Webhook:
    """Change some of EDITABLE. Switching it on again forgets its failures. Raises WebhookChanged, InvalidInput, EgressRefused."""
    if unknown := set(fields) - EDITABLE:
        raise InvalidInput(f"a webhook has no changeable field {', '.join(sorted(unknown))}")
    may_manage(actor, webhook.repository, webhook.namespace)
    _assign(webhook, fields)  # outside of the transaction: it looks a name up
    with transaction.atomic():
        row = Webhook.objects.select_for_update(of=("self",)).get(pk=webhook.pk)
        if version is not None and row.version != version:
            raise WebhookChanged(f"the webhook was changed by somebody else (version {row.version}); read it again")
        if fields.get("active") and not row.active:
            row.failures, row.disabled_reason = 0, ""
        for name in fields:
            setattr(row, name, getattr(webhook, name))
        row.version += 1
        row.save()
        _record("webhook.updated", actor, row)
    return row


def _assign(row: Webhook, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(row, name, value)
    wide = TYPES if row.repository is None and row.namespace is None else NAMESPACE_TYPES
    allowed = REPOSITORY_TYPES if row.repository is not None else wide
    row.types = sorted(set(row.types), key=TYPES.index) if set(row.types) <= set(TYPES) else row.types
    if not row.types or (odd := sorted(set(row.types) - set(allowed))):
        raise InvalidInput(f"the types of a webhook here are some of {', '.join(allowed)}{_not(odd) if row.types else ''}")
    if row.format not in Webhook.Format.values:
        raise InvalidInput("the format is dtr or cloudevents")
    if len(row.tls_ca) > 64 << 10:
        raise InvalidInput("the CA has more than 64 KiB")
    Tls(row.tls_verify, row.tls_ca).context()
    if "url" in fields:
        target = guard.check_url(row.url)
        try:
            guard.resolve(target)
        except RemoteAway:
            pass  # a name that is not there yet may come; each delivery asks again


def _not(odd: list[str]) -> str:
    return f", not {', '.join(odd)[:200]}"


def delete_webhook(actor: Actor, webhook: Webhook) -> None:
    """With its log; what is on its way is given up."""
    may_manage(actor, webhook.repository, webhook.namespace)
    with transaction.atomic():
        row = Webhook.objects.select_for_update(of=("self",)).filter(pk=webhook.pk).first()
        if row is None:
            raise NotFound("there is no such webhook any more")
        _record("webhook.deleted", actor, row)
        row.delete()


def renew_secret(actor: Actor, webhook: Webhook) -> str:
    """A new secret, shown once; deliveries that are still to be tried are signed with it."""
    may_manage(actor, webhook.repository, webhook.namespace)
    secret = _new_secret(webhook)
    with transaction.atomic():
        Webhook.objects.filter(pk=webhook.pk).update(sealed_secret=webhook.sealed_secret)
        _record("webhook.secret_renewed", actor, webhook)
    return secret


def _new_secret(row: Webhook) -> str:
    secret = _SECRET + secrets.token_urlsafe(32)
    row.sealed_secret = seal(secret, f"webhook:{row.pk}")
    return secret


def test_webhook(actor: Actor, webhook: Webhook) -> Delivery:
    """Send a sample now, once, also while the webhook is switched off."""
    may_manage(actor, webhook.repository, webhook.namespace)
    now = timezone.now()
    notice = payloads.sample(webhook.types[0], webhook.repository.full_name if webhook.repository else "", now)
    with transaction.atomic():
        row = Delivery.objects.create(
            webhook=webhook, type=notice.type, subject=notice.subject, body=payloads.body(webhook, notice, 0)
        )
        queue(row)
    return row


def redeliver(actor: Actor, delivery: Delivery) -> Delivery:
    """The same body once more, under the id that the endpoint knows. Raises Conflict while it is still being tried."""
    webhook = delivery.webhook
    may_manage(actor, webhook.repository, webhook.namespace)
    if delivery.state == Delivery.State.QUEUED:
        raise Conflict("this delivery is still being tried; wait for its end")
    with transaction.atomic():
        row = Delivery.objects.create(
            webhook=webhook,
            type=delivery.type,
            event_id=delivery.event_id,
            subject=delivery.subject,
            origin=delivery.seen_as,
            body=delivery.body,
        )
        queue(row)
        _record("webhook.redelivered", actor, webhook, delivery=row.seen_as)
    return row


def _record(kind: str, actor: Actor, row: Webhook, **more: Any) -> None:
    """The endpoint's host only: many carry a secret in their path."""
    home = row.repository.collection if row.repository else row.namespace.collection if row.namespace else None
    events.record(
        kind,
        actor=actor,
        target=f"webhook/{row.pk}",
        collection_path=home.path if home else "/",
        data={"scope": row.scope, "host": guard.check_url(row.url).host, "types": row.types, "active": row.active, **more},
    )
