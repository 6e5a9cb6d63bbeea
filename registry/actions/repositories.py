"""Creating, changing and deleting repositories and namespaces."""

from __future__ import annotations

import hashlib
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, Denied, InvalidInput, PreconditionFailed
from agent.protocol.oci import check_name
from controlplane import events
from controlplane.api.actor import Actor
from controlplane.rbac.models import Collection
from registry.actions.filled import refuse_users
from registry.errors import RepositoryUnknown
from registry.limits import limit
from registry.models import Blob, Namespace, Repository, RepositoryBlob
from registry.queries import access
from registry.seed import COLLECTION

EDITABLE = frozenset({"visibility", "description", "readme", "sparse_indexes"})


class RepositoryExists(Conflict):
    code = "repository_exists"


class RepositoryChanged(PreconditionFailed):
    code = "repository_changed"


def create_repository(
    actor: Actor,
    full_name: str,
    *,
    visibility: str = "private",
    description: str = "",
    readme: str = "",
    sparse_indexes: bool = False,
) -> Repository:
    """A new, empty repository. Raises NameInvalid, Denied, RepositoryExists."""
    check_name(full_name)
    if not access.may_create(actor, full_name):
        raise Denied(
            f"you may not create repositories in {full_name.partition('/')[0]!r}: it is neither your name nor that of an"
            " organisation you own; a grant with Repository Create on its collection, or an administrator, can",
            operation="Repository Create",
        )
    fields = {"visibility": visibility, "description": description, "readme": readme, "sparse_indexes": sparse_indexes}
    _check(fields)
    with transaction.atomic():
        if Repository.objects.filter(full_name=full_name).exists():
            raise RepositoryExists(f"the repository {full_name} exists already")
        try:
            with transaction.atomic():
                return _create(actor, full_name, fields)
        except IntegrityError as error:
            raise RepositoryExists(f"the repository {full_name} was created by somebody else at the same time") from error


def _create(actor: Actor, full_name: str, fields: dict[str, Any]) -> Repository:
    namespace_name, _, rest = full_name.partition("/")
    namespace, new = _namespace(namespace_name)
    collection = namespace.collection
    for component in rest.split("/") if rest else ():
        collection = _child(collection, component)
    repository = Repository.objects.create(namespace=namespace, name=rest, full_name=full_name, collection=collection, **fields)
    # Events come after all row locks: the audit chain's lock is the one that everybody waits for.
    if new:
        _record_namespace(actor, namespace)
    events.record(
        "repository.created",
        actor=actor,
        target=f"repository/{repository.pk}",
        collection_path=collection.path,
        data={"name": full_name, "visibility": repository.visibility},
    )
    return repository


def create_namespace(actor: Actor, name: str) -> Namespace:
    """An administrator's namespace ("library"), or that of the user or organisation of this name."""
    if not actor.is_admin or not actor.in_scope("Repository Create"):
        raise Denied(
            "only administrators create namespaces; users and organisations have theirs by name", operation="Repository Create"
        )
    check_name(name)
    if "/" in name:
        raise InvalidInput("a namespace is the first component of repository names and holds no '/'")
    with transaction.atomic():
        namespace, new = _namespace(name)
        if new:
            _record_namespace(actor, namespace)
    return namespace


def _namespace(name: str) -> tuple[Namespace, bool]:
    """The namespace, and whether it was made just now."""
    found = Namespace.objects.select_related("collection").filter(name=name).first()
    if found is not None:
        return found, False
    kind, owner_id = access.owner_of(name)
    namespace = Namespace.objects.create(
        name=name, kind=kind, owner_id=owner_id, collection=_child(Collection.objects.get(path=COLLECTION), name)
    )
    return namespace, True


def _record_namespace(actor: Actor, namespace: Namespace) -> None:
    events.record(
        "namespace.created",
        actor=actor,
        target=f"namespace/{namespace.name}",
        collection_path=namespace.collection.path,
        data={"kind": namespace.kind},
    )


def _child(parent: Collection, component: str) -> Collection:
    # Collection names end at 100 characters, components of repository names do not.
    name = component if len(component) <= 100 else f"{component[:83]}-{hashlib.sha256(component.encode()).hexdigest()[:16]}"
    child, _ = Collection.objects.get_or_create(path=f"{parent.path}{name}/", defaults={"name": name, "parent": parent})
    return child


def ensure_repository(actor: Actor, full_name: str) -> Repository:
    """The repository to push to, created when it is missing, the setting allows it and `actor` may. Raises RepositoryUnknown."""
    found = Repository.objects.filter(full_name=full_name).first()
    if found is not None:
        refuse_users(actor, found)
        return found
    if not limit("CREATE_ON_PUSH") or not access.may_create(actor, full_name):
        raise RepositoryUnknown(
            f"the repository {full_name} does not exist, and pushing does not create it for you; create it in the console, with"
            f" `wharf repo create {full_name}`, or ask an administrator"
        )
    try:
        return create_repository(actor, full_name)
    except RepositoryExists:
        return Repository.objects.get(full_name=full_name)


def update_repository(actor: Actor, repository: Repository, version: int | None, **fields: Any) -> Repository:
    """Change some of EDITABLE. `version` is the one the caller saw (None = whichever). Raises RepositoryChanged."""
    if unknown := set(fields) - EDITABLE:
        raise InvalidInput(f"a repository has no changeable field {', '.join(sorted(unknown))}")
    _check(fields)
    with transaction.atomic():
        row = Repository.objects.select_for_update(of=("self",)).select_related("collection").get(pk=repository.pk)
        _check_version(row, version)
        changed = sorted(name for name, value in fields.items() if getattr(row, name) != value)
        for name in changed:
            setattr(row, name, fields[name])
        row.version += 1
        row.save()
        events.record(
            "repository.updated",
            actor=actor,
            target=f"repository/{row.pk}",
            collection_path=row.collection.path,
            data={"name": row.full_name, "changed": changed, "visibility": row.visibility},
        )
    return row


def delete_repository(actor: Actor, repository: Repository, version: int | None = None) -> None:
    """The repository with its tags, manifests and uploads. Its blobs go at the next collection, unless others use them."""
    with transaction.atomic():
        row = Repository.objects.select_for_update(of=("self",)).select_related("collection").get(pk=repository.pk)
        _check_version(row, version)
        now = timezone.now()
        # Dropping a reference touches the blob: the grace begins when the last one goes.
        Blob.objects.filter(pk__in=RepositoryBlob.objects.filter(repository=row).values("blob_id")).update(last_touched=now)
        tags = row.tags.count()
        collection = row.collection
        row.delete()
        _prune(collection)
        events.record(
            "repository.deleted",
            actor=actor,
            target=f"repository/{repository.pk}",
            collection_path=collection.path,
            data={"name": repository.full_name, "tags": tags},
        )


def _prune(collection: Collection) -> None:
    """Remove the leaf and the empty folders above it, up to the namespace: a later repository of that name inherits no grants."""
    while not (
        Namespace.objects.filter(collection=collection).exists()
        or Repository.objects.filter(collection=collection).exists()
        or collection.children.exists()
    ):
        parent = collection.parent
        collection.delete()
        if parent is None or parent.path == COLLECTION:
            return
        collection = parent


def _check_version(row: Repository, version: int | None) -> None:
    if version is not None and row.version != version:
        raise RepositoryChanged(f"{row.full_name} was changed by somebody else (version {row.version}); read it again")


def _check(fields: dict[str, Any]) -> None:
    visibility = fields.get("visibility")
    if visibility is not None and visibility not in Repository.Visibility.values:
        raise InvalidInput(f"visibility {visibility!r} is neither 'public' nor 'private'", field="visibility")
    if len(fields.get("description") or "") > 200:
        raise InvalidInput("the description has more than 200 characters; the readme has room", field="description")
