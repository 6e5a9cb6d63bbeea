"""Making, changing and removing mirrors; asking for a run, trying a connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, Denied, InvalidInput, NotFound, PreconditionFailed
from agent.protocol.oci import check_name
from controlplane import events, rbac
from controlplane.api.actor import Actor
from controlplane.jobs import cron as crons
from controlplane.jobs import enqueue
from controlplane.jobs.models import Job
from registry.models import Mirror, Proxy, Repository
from registry.queries.webhooks import OPERATION
from registry.remote import guard
from registry.remote.client import RegistryClient
from registry.remote.errors import RemoteAway
from registry.remote.session import Remote
from registry.remote.transport import Tls
from registry.rules import check_rules
from registry.sealed import seal, unseal

JOB = "registry.mirror"
MAX_OF_ONE = 20
MIN_CRON_SECONDS = 60.0
PUSH_FIELDS = ("tag", "updated_at", "vulnerability_critical", "vulnerability_major", "vulnerability_minor", "vulnerability_all")
PULL_FIELDS = ("tag",)  # more is not known of what is elsewhere
EDITABLE = frozenset(
    {
        "url",
        "username",
        "secret",
        "tls_verify",
        "tls_ca",
        "remote_name",
        "rules",
        "enabled",
        "on_event",
        "cron",
        "speed",
        "deletions",
    }
)
_DEFAULTS: dict[str, Any] = {
    **{"username": "", "secret": "", "tls_verify": True, "tls_ca": "", "rules": (), "enabled": True},
    **{"on_event": True, "cron": "", "speed": 0, "deletions": False},
}


class MirrorChanged(PreconditionFailed):
    code = "mirror_changed"


def create_mirror(actor: Actor, *, repository: str, direction: str, url: str, remote_name: str, **fields: Any) -> Mirror:
    """Raises NotFound, Denied, InvalidInput, EgressRefused, Conflict. A PULL mirror makes its repository read-only to users."""
    home = rbac.visible(actor, Repository.objects.select_related("collection", "namespace")).filter(full_name=repository).first()
    if home is None:
        raise NotFound(f"there is no repository {repository}, or you may not see it")
    rbac.require(actor, OPERATION, home)
    if direction not in Mirror.Direction.values:
        raise InvalidInput("the direction of a mirror is push or pull")
    if unknown := set(fields) - EDITABLE:
        raise InvalidInput(f"a mirror has no field {', '.join(sorted(unknown))}")
    row = Mirror(repository=home, direction=direction, created_by=actor.name)
    assign(row, {**_DEFAULTS, "url": url, "remote_name": remote_name, **fields})
    try:
        with transaction.atomic():
            if Mirror.objects.filter(repository=home).count() >= MAX_OF_ONE:
                raise Conflict(f"{repository} has {MAX_OF_ONE} mirrors already; remove one")
            if direction == Mirror.Direction.PULL and Proxy.objects.filter(namespace=home.namespace).exists():
                raise Conflict(f"{repository} is in a proxied namespace; a mirror cannot fill it as well")
            row.save(force_insert=True)
            _mark(home)
            _record("mirror.created", actor, row)
    except IntegrityError as error:
        raise Conflict(f"{repository} is filled by a pull mirror already; two would overwrite each other's tags") from error
    return row


def update_mirror(actor: Actor, mirror: Mirror, version: int | None, **fields: Any) -> Mirror:
    """Change some of EDITABLE. Another place forgets what was mirrored to the old one. Raises MirrorChanged, InvalidInput."""
    if unknown := set(fields) - EDITABLE:
        raise InvalidInput(f"a mirror has no changeable field {', '.join(sorted(unknown))}")
    rbac.require(actor, OPERATION, mirror.repository)
    before = (mirror.url, mirror.remote_name)
    if mirror.sealed_secret and "secret" not in fields and str(fields.get("url", mirror.url)).rstrip("/") != mirror.url:
        raise InvalidInput("give the secret again: the stored one is for another registry", field="secret")
    assign(mirror, fields)  # outside of the transaction: it looks a name up
    changed = [*fields, *(["sealed_secret"] if "secret" in fields else []), *(["next_due"] if "cron" in fields else [])]
    with transaction.atomic():
        row = Mirror.objects.select_for_update(of=("self",)).select_related("repository__collection").get(pk=mirror.pk)
        if version is not None and row.version != version:
            raise MirrorChanged(f"the mirror was changed by somebody else (version {row.version}); read it again")
        for name in changed:
            if name != "secret":
                setattr(row, name, getattr(mirror, name))
        row.version += 1
        row.save()
        if (row.url, row.remote_name) != before:
            row.tags.all().delete()
        _mark(row.repository)
        _record("mirror.updated", actor, row)
    return row


def delete_mirror(actor: Actor, mirror: Mirror) -> None:
    """What was mirrored stays on both sides; a repository that it filled can be pushed to again."""
    rbac.require(actor, OPERATION, mirror.repository)
    with transaction.atomic():
        row = Mirror.objects.select_for_update(of=("self",)).select_related("repository__collection").filter(pk=mirror.pk).first()
        if row is None:
            raise NotFound("there is no such mirror any more")
        _record("mirror.deleted", actor, row)
        row.delete()
        _mark(row.repository)


def run_now(actor: Actor, mirror: Mirror) -> Job:
    """A whole comparison of both sides; one that is queued already is returned."""
    rbac.require(actor, OPERATION, mirror.repository)
    if not mirror.enabled:
        raise Conflict("the mirror is switched off; switch it on first")
    return ask(mirror, actor, quick=False)


def ask(mirror: Mirror, actor: Actor, *, quick: bool, after: datetime | None = None) -> Job:
    """A queued run. A quick one looks only at what changed here, and is not asked for while any other is queued."""
    key = f"{JOB}:{mirror.pk}:{'quick' if quick else 'whole'}"
    return enqueue(JOB, {"mirror": mirror.pk, "quick": quick}, actor=actor, dedup_key=key, run_after=after)


def try_connection(
    actor: Actor, *, url: str, remote_name: str, direction: str, mirror: Mirror | None = None, **fields: Any
) -> None:
    """Does the registry answer, take the credentials and let us pull or push there? Raises what it said.

    Without a secret of their own, the credentials are those of `mirror`, but only for the place that they were given for.
    """
    row = Mirror(direction=direction)
    if mirror is not None and "secret" not in fields:
        rbac.require(actor, OPERATION, mirror.repository)
        if url.rstrip("/") != mirror.url:
            raise InvalidInput("give the secret again: the stored one is for another registry")
        fields["secret"] = unseal(mirror.sealed_secret, f"mirror:{mirror.pk}")
    assign(row, {**_DEFAULTS, "url": url, "remote_name": remote_name, **fields})
    with RegistryClient(remote_of(row), attempts=1, deadline=30.0) as client:
        client.ping()
        if direction == Mirror.Direction.PUSH:
            client.may_push(row.remote_name)
        else:
            next(iter(client.tags(row.remote_name)), None)


def require_anywhere(actor: Actor) -> None:
    """Raises Denied for who may set policies nowhere: trying a connection is a request into the world on the cluster's behalf."""
    if not rbac.visible(actor, Repository.objects.all(), OPERATION).exists():
        raise Denied("connections are tried by those who may set the policies of a repository", operation=OPERATION)


def remote_of(row: Mirror | Proxy) -> Remote:
    """With the secret opened: nothing of it may be logged or answered."""
    kind = "mirror" if isinstance(row, Mirror) else "proxy"
    secret = unseal(row.sealed_secret, f"{kind}:{row.pk}")
    return Remote(row.url, row.username, secret, Tls(row.tls_verify, row.tls_ca))


def assign(row: Mirror, fields: dict[str, Any]) -> None:
    """Checked. Raises InvalidInput, EgressRefused."""
    for name, value in fields.items():
        if name == "secret":
            row.sealed_secret = seal(value, f"mirror:{row.pk}")
        elif name != "rules":
            setattr(row, name, value)
    check_elsewhere(row)
    check_name(row.remote_name)
    if "rules" in fields:
        allowed = PUSH_FIELDS if row.direction == Mirror.Direction.PUSH else PULL_FIELDS
        row.rules = [rule.as_dict() for rule in check_rules(fields["rules"], allowed)]
    if "cron" in fields:
        row.next_due = next_due(row.cron)
    if not 0 <= row.speed <= 10_000_000:
        raise InvalidInput("the speed is 0 (no limit) to 10,000,000 kB/s")


def check_elsewhere(row: Mirror | Proxy) -> None:
    """Raises InvalidInput, EgressRefused for a URL, credentials or a CA that can never work."""
    row.url = str(row.url).rstrip("/")
    target = guard.check_url(row.url)
    if row.url != f"{target.scheme}://{row.host}" or "/" in row.host or "?" in row.host or "#" in row.host:
        raise InvalidInput("the registry is named as https://host or https://host:port, without a path")
    if any(ord(char) < 0x20 for char in row.username) or len(row.username) > 255:
        raise InvalidInput("the user name has control characters, or more than 255 characters")
    if len(row.tls_ca) > 64 << 10:
        raise InvalidInput("the CA has more than 64 KiB")
    Tls(row.tls_verify, row.tls_ca).context()
    try:
        guard.resolve(target)
    except RemoteAway:
        pass  # a name that is not there yet may come; each run asks again


def next_due(cron: str) -> datetime | None:
    """Raises InvalidInput for what is no schedule, or fires more often than once a minute."""
    if not cron:
        return None
    first = crons.next_tick(cron, timezone.now())
    if (crons.next_tick(cron, first) - first).total_seconds() < MIN_CRON_SECONDS:
        raise InvalidInput("a mirror runs at most once a minute; let the schedule's seconds be a number")
    return first


def _mark(repository: Repository) -> None:
    """The repository's own row says who fills it: a push reads it anyway."""
    row = Mirror.objects.filter(repository=repository, direction=Mirror.Direction.PULL, enabled=True).first()
    Repository.objects.filter(pk=repository.pk).update(mirrored_from=row.remote if row else "")


def _record(kind: str, actor: Actor, row: Mirror) -> None:
    events.record(
        kind,
        actor=actor,
        target=f"mirror/{row.pk}",
        collection_path=row.repository.collection.path,
        data={"name": row.repository.full_name, "direction": row.direction, "remote": row.remote, "enabled": row.enabled},
    )
