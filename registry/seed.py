"""Rows that must always be there: made again after each migrate."""

from __future__ import annotations

from typing import Any

COLLECTION = "/Registry/"  # parent of every namespace's collection


def after_migrate(**kwargs: Any) -> None:
    """Makes the collection under which all repositories hang."""
    from controlplane.rbac.models import Collection

    using = kwargs.get("using", "default")
    root = Collection.objects.using(using).filter(path="/").first()
    if root is not None:
        Collection.objects.using(using).get_or_create(
            path=COLLECTION, defaults={"name": COLLECTION.strip("/"), "parent": root, "system": True}
        )
