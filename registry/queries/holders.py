"""Who needs which image now."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from registry.models import Lease, ManifestBlob, ManifestChild


def holders(repository: str, digests: Iterable[str]) -> dict[str, list[str]]:
    """{"sha256:…": ["container/<id>", "service/<id>"]} of those among `digests` that are leased in `repository`. One query."""
    found: dict[str, list[str]] = {}
    rows = Lease.objects.filter(Lease.valid(timezone.now()), digest__in=list(digests), repository__in=["", repository])
    for digest, holder in rows.values_list("digest", "holder").distinct().order_by("digest", "holder"):
        found.setdefault(digest, []).append(holder)
    return found


def held_by(*kinds: str) -> set[tuple[str, str]]:
    """{("service/<id>", "sha256:…")}: the images, not what they are made of, that holders of these kinds lease."""
    # An image's own digest is the first of its closure: one row an image.
    return set(_of(kinds).filter(digest=F("root")).values_list("holder", "root"))


def incomplete(*kinds: str) -> set[tuple[str, str]]:
    """Those of `held_by` of which a part is not leased: it came after the lease, as a sparse index's child does."""
    same = Lease.objects.filter(holder=OuterRef(OuterRef("holder")), root=OuterRef(OuterRef("root")))
    children = ManifestChild.objects.filter(manifest__digest=OuterRef("digest"))
    blobs = ManifestBlob.objects.filter(manifest__digest=OuterRef("digest"))
    loose = Exists(children.exclude(Exists(same.filter(digest=OuterRef("digest"))))) | Exists(
        blobs.exclude(Exists(same.filter(digest=OuterRef("blob__digest"))))
    )
    return set(_of(kinds).filter(loose).values_list("holder", "root"))


def expired() -> set[tuple[str, str]]:
    """Leases that ended by themselves."""
    return set(Lease.objects.filter(expires_at__lte=timezone.now()).values_list("holder", "root"))


def _of(kinds: Iterable[str]) -> QuerySet[Lease]:
    named = Q(pk__in=())
    for kind in kinds:
        named |= Q(holder__startswith=f"{kind}/")
    return Lease.objects.filter(named)
