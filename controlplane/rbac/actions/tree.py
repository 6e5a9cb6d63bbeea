"""The tree of collections."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.db.models import ProtectedError, Value
from django.db.models.functions import Concat, Substr

from agent.protocol.errors import Conflict, InvalidInput
from controlplane.api import versions
from controlplane.api.actor import Actor
from controlplane.events import record
from controlplane.rbac.collections import MAX_DEPTH, ancestors
from controlplane.rbac.models import SEGMENT, Collection

MAX_PATH = 1024


def _segment(name: str) -> str:
    try:
        SEGMENT(name)
    except ValidationError as error:
        raise InvalidInput(f"{name!r} cannot name a collection. {' '.join(error.messages)}") from None
    return name


def create_collection(actor: Actor, parent: Collection, name: str) -> Collection:
    """A new collection below `parent`. Raises InvalidInput (name, depth) or Conflict (a sibling has the name, ignoring case)."""
    path = f"{parent.path}{_segment(name)}/"
    if len(ancestors(path)) > MAX_DEPTH or len(path) > MAX_PATH:
        raise InvalidInput(f"The tree is at most {MAX_DEPTH} levels deep and a path at most {MAX_PATH} characters long.")
    try:
        with transaction.atomic():
            row = Collection.objects.create(name=name, parent=parent, path=path)
            record("collection.created", actor=actor, target=f"collection/{row.pk}", collection_path=path, data={"path": path})
    except IntegrityError:
        raise Conflict(f"There is a collection at {path} (case does not count).") from None
    return row


def rename_collection(actor: Actor, row: Collection, name: str, *, expected: int | None = None) -> Collection:
    """Gives the collection another name and moves the paths of everything below it in the same transaction."""
    _refuse_system(row)
    old = row.path
    new = f"{old[: -len(row.name) - 1]}{_segment(name)}/"
    try:
        with transaction.atomic():
            versions.write(row, expected, name=name, path=new)
            below = Collection.objects.filter(path__startswith=old).exclude(pk=row.pk)
            if any(len(path) - len(old) + len(new) > MAX_PATH for path in below.values_list("path", flat=True)):
                raise InvalidInput(f"A path below would be longer than {MAX_PATH} characters.")
            below.update(path=Concat(Value(new), Substr("path", len(old) + 1), output_field=models.CharField()))
            record(
                "collection.renamed",
                actor=actor,
                target=f"collection/{row.pk}",
                collection_path=new,
                data={"from": old, "to": new},
            )
    except IntegrityError:
        raise Conflict(f"There is a collection at {new} (case does not count).") from None
    return row


def delete_collection(actor: Actor, row: Collection, *, expected: int | None = None) -> None:
    """Removes an empty collection with the grants on it. Raises Conflict when something is in it."""
    _refuse_system(row)
    versions.check(row, expected)
    try:
        with transaction.atomic():
            key, path = row.pk, row.path
            row.delete()
            record("collection.deleted", actor=actor, target=f"collection/{key}", collection_path=path, data={"path": path})
    except ProtectedError as error:
        kinds = sorted({type(item)._meta.verbose_name_plural or "" for item in error.protected_objects})
        raise Conflict(f"{row.path} is not empty: it holds {', '.join(str(kind) for kind in kinds)}.") from None


def _refuse_system(row: Collection) -> None:
    if row.system:
        raise Conflict(f"{row.path} is a fixed part of the tree.")
