"""Quotas: reserved when bytes are announced, settled when they are linked, given back on every other end.

A blob counts once a namespace, from its first link there to its last. Whoever links or unlinks holds the blob's row lock, so
that "is it the first" and "was it the last" are answered for good. The quota's row is changed by one short UPDATE, the last
statement before the events; where no quota is set, no statement is added at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.db import transaction
from django.db.models import F, QuerySet, Sum
from django.db.models.functions import Greatest
from django.utils import timezone

from agent.protocol.errors import InvalidInput, NotFound
from controlplane import events
from controlplane.api.actor import SYSTEM, Actor
from controlplane.jobs import enqueue
from registry.errors import QuotaExceeded
from registry.models import Blob, Namespace, Quota, Repository, RepositoryBlob, Upload
from registry.queries import standing
from registry.rules.words import size as words

WARNING = 85  # percent
STEP = 16 << 20  # bytes reserved at a time for a body of unknown length
MAX_LIMIT = 1 << 60
CACHED = 10_000
SETTLED = 120  # seconds in which pushes that began before a quota was set are over

_namespaces: dict[str, int] = {}  # of repositories; a repository never changes it


def limited(repository_id: str, *, fresh: bool = False) -> int | None:
    """The namespace of the repository when it has a quota."""
    quotas = standing.current(fresh=fresh).quotas
    if not quotas:
        return None
    if repository_id not in _namespaces:
        if len(_namespaces) > CACHED:
            _namespaces.clear()
        found = Repository.everything.filter(pk=repository_id).values_list("namespace_id", flat=True).first()
        if found is None:
            return None
        _namespaces[repository_id] = found
    namespace = _namespaces[repository_id]
    return namespace if namespace in quotas else None


def admit(repository_id: str, size: int) -> None:
    """Refuse bytes that cannot fit before they are sent. Reserves nothing. Raises QuotaExceeded."""
    namespace = limited(repository_id)
    if namespace is not None and Quota.objects.filter(namespace=namespace, limit__lt=F("used") + F("reserved") + size).exists():
        raise _exceeded(namespace, size)


def reserve(session: str, repository_id: str, needed: int, wanted: int = 0) -> int:
    """Reserve for an upload that will have `needed` bytes, or rather `wanted`; returns what it has. Raises QuotaExceeded.

    -1 where there is no quota.
    """
    namespace = limited(repository_id)
    if namespace is None:
        return -1
    with transaction.atomic():
        row = Upload.objects.select_for_update(no_key=True).filter(pk=session).first()
        if row is None or row.reserved >= needed:
            return row.reserved if row else needed
        for target in (max(wanted, needed), needed):
            more = target - row.reserved
            if _room(namespace, more).update(reserved=F("reserved") + more):
                Upload.objects.filter(pk=session).update(reserved=target)
                return target
    raise _exceeded(namespace, needed - row.reserved)


def _room(namespace: int, more: int) -> QuerySet[Quota]:
    return Quota.objects.filter(namespace=namespace, limit__gte=F("used") + F("reserved") + more)


def settle(namespace: int, size: int, reserved: int) -> None:
    """Within the transaction that linked a blob: `size` bytes are new to the namespace, `reserved` were set aside.

    Raises QuotaExceeded, which must roll the link back.
    """
    if not size and not reserved:
        return
    if not _room(namespace, size - reserved).update(used=F("used") + size, reserved=Greatest(F("reserved") - reserved, 0)):
        # What was reserved fits whatever happened to the limit meanwhile.
        if size > reserved:
            raise _exceeded(namespace, size - reserved)
        Quota.objects.filter(namespace=namespace).update(used=F("used") + size, reserved=Greatest(F("reserved") - reserved, 0))


def _exceeded(namespace: int, more: int) -> QuotaExceeded:
    row = Quota.objects.select_related("namespace").filter(namespace=namespace).first()
    if row is None:
        return QuotaExceeded("the namespace's quota was changed just now; push again")
    pending = f", {words(row.reserved)} more are on their way" if row.reserved else ""
    return QuotaExceeded(
        f"the namespace {row.namespace.name} holds {words(row.used)} of the {words(row.limit)} that its quota allows{pending},"
        f" and this push needs another {words(more)}; delete images and forget them, or ask an administrator for a larger quota",
        namespace=row.namespace.name,
        limit=row.limit,
        used=row.used,
        reserved=row.reserved,
        needed=more,
    )


def end_uploads(rows: QuerySet[Upload], *, fresh: bool = False) -> int:
    """Delete upload sessions and give back what they had reserved; returns how many."""
    if not standing.current(fresh=fresh).quotas:
        return rows.delete()[0]
    with transaction.atomic():
        locked = list(
            rows.select_for_update(of=("self",)).order_by("id").values_list("id", "reserved", "repository__namespace_id")
        )
        Upload.objects.filter(pk__in=[key for key, _, _ in locked]).delete()
        totals: dict[int, int] = {}
        for _, reserved, namespace in locked:
            totals[namespace] = totals.get(namespace, 0) + reserved
        for namespace in sorted(totals):
            if totals[namespace]:
                Quota.objects.filter(namespace=namespace).update(reserved=Greatest(F("reserved") - totals[namespace], 0))
    return len(locked)


def unlinked(pairs: Iterable[tuple[int, int]]) -> None:
    """After links were dropped, their blobs still locked: `pairs` are (namespace, blob). The last one frees the bytes."""
    quotas = standing.current(fresh=True).quotas
    dropped: dict[int, set[int]] = {}
    for namespace, blob in pairs:
        if namespace in quotas:
            dropped.setdefault(namespace, set()).add(blob)
    for namespace in sorted(dropped):
        left = RepositoryBlob.objects.filter(repository__namespace=namespace, blob__in=dropped[namespace])
        gone = dropped[namespace] - set(left.values_list("blob_id", flat=True))
        size = Blob.objects.filter(pk__in=gone).aggregate(total=Sum("size"))["total"] or 0
        if size:
            Quota.objects.filter(namespace=namespace).update(used=Greatest(F("used") - size, 0))


def warnings(actor: Actor, repository: Repository) -> list[str]:
    """Sentences for a pusher whose namespace is nearly full; the crossing of the line is an event."""
    if limited(repository.pk) is None:
        return []
    row = Quota.objects.select_related("namespace").filter(namespace=repository.namespace_id).first()
    if row is None:
        return []
    full = row.used * 100 >= row.limit * WARNING
    if full != row.warned and Quota.objects.filter(pk=row.pk, warned=row.warned).update(warned=full) and full:
        _record(actor, row.namespace, "quota.nearly_full", row)
    if not full:
        return []
    percent = row.used * 100 // row.limit if row.limit else 100
    return [f"the namespace {row.namespace.name} has used {percent} % of its quota of {words(row.limit)}"]


def _record(actor: Actor, namespace: Namespace, kind: str, row: Quota) -> None:
    standing.changed()
    events.record(
        kind,
        actor=actor,
        target=f"namespace/{namespace.name}",
        collection_path=namespace.collection.path,
        data={"namespace": namespace.name, "limit": row.limit, "used": row.used, "reserved": row.reserved},
    )


def set_quota(actor: Actor, name: str, limit: int) -> Quota:
    """Limit a namespace to `limit` bytes, from what it holds now. Raises NotFound, InvalidInput."""
    if not 0 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"a quota is a number of bytes from 0 to {MAX_LIMIT}", field="limit")
    with transaction.atomic():
        namespace = _namespace(name)
        row, created = Quota.objects.update_or_create(namespace=namespace, defaults={"limit": limit, "set_by": actor.name})
        if created:
            _count(row)
            # Pushes that began before this commit know of no quota: they are counted in when they are through.
            enqueue("registry.quotas", actor=SYSTEM, run_after=timezone.now() + timedelta(seconds=SETTLED))
        _record(actor, namespace, "quota.set", row)
    return row


def remove_quota(actor: Actor, name: str) -> None:
    """No limit any more. Raises NotFound."""
    with transaction.atomic():
        row = Quota.objects.select_related("namespace__collection").filter(namespace__name=name).first()
        if row is None:
            raise NotFound(f"the namespace {name} has no quota")
        namespace = row.namespace
        # An instance's delete would take the key from the row, and the namespace with it.
        Quota.objects.filter(pk=row.pk).delete()
        _record(actor, namespace, "quota.removed", row)


def _namespace(name: str) -> Namespace:
    found = Namespace.objects.select_related("collection").filter(name=name).first()
    if found is None:
        raise NotFound(f"there is no namespace {name}; it begins with its first repository")
    return found


def held(namespace: int) -> int:
    """Bytes of the distinct blobs that the namespace links, counted."""
    linked = RepositoryBlob.objects.filter(repository__namespace=namespace)
    return Blob.objects.filter(pk__in=linked.values("blob_id")).aggregate(total=Sum("size"))["total"] or 0


def _count(row: Quota) -> bool:
    """Count again; False when the row said something else. Pushes and deletes of the namespace wait at the row meanwhile."""
    Quota.objects.select_for_update(no_key=True).get(pk=row.pk)
    before = Quota.objects.get(pk=row.pk)
    used = held(row.pk)
    reserved = Upload.objects.filter(repository__namespace=row.pk).aggregate(total=Sum("reserved"))["total"] or 0
    Quota.objects.filter(pk=row.pk).update(used=used, reserved=reserved, counted_at=timezone.now())
    row.used, row.reserved = used, reserved
    return (before.used, before.reserved) == (used, reserved)


def recount() -> list[str]:
    """Prove every quota's sums against the links; returns a sentence for each that was wrong and is right now."""
    wrong = []
    for row in Quota.objects.select_related("namespace__collection").order_by("pk"):
        with transaction.atomic():
            old = (row.used, row.reserved)
            if not _count(row):
                wrong.append(f"{row.namespace.name}: {old[0]} used and {old[1]} reserved were {row.used} and {row.reserved}")
                _record(SYSTEM, row.namespace, "quota.corrected", row)
    return wrong
