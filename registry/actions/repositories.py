"""Creating, changing and deleting repositories and namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from agent.protocol.errors import Conflict, Denied, InvalidInput, PreconditionFailed
from agent.protocol.oci import check_name
from controlplane import events
from controlplane.api.actor import Actor
from controlplane.rbac.models import Collection
from registry.actions import folders, quotas, trash
from registry.actions.filled import refuse_users
from registry.errors import ImageInUse, RepositoryUnknown
from registry.limits import limit
from registry.models import Blob, Label, Manifest, Namespace, Repository, RepositoryBlob, Upload
from registry.queries import access, standing, switches
from registry.queries.holders import holders
from registry.queries.labels import checked_labels
from registry.running import in_use_by
from registry.seed import COLLECTION

EDITABLE = frozenset({"visibility", "description", "readme", "sparse_indexes", "labels", "immutable_tags", "tag_limit"})
MAX_TAG_LIMIT = 100_000


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
    immutable_tags: bool = False,
    tag_limit: int = 0,
    labels: Mapping[str, str] | None = None,
) -> Repository:
    """A new, empty repository. Raises NameInvalid, Denied, RepositoryExists."""
    check_name(full_name)
    standing.refuse_writes(fresh=True)
    if not access.may_create(actor, full_name):
        raise Denied(
            f"you may not create repositories in {full_name.partition('/')[0]!r}: it is neither your name nor that of an"
            " organisation you own; a grant with Repository Create on its collection, or an administrator, can",
            operation="Repository Create",
        )
    fields = {
        "visibility": visibility,
        "description": description,
        "readme": readme,
        "sparse_indexes": sparse_indexes,
        "immutable_tags": immutable_tags,
        "tag_limit": tag_limit,
    }
    _check(fields)
    wanted = checked_labels(labels or {})
    with transaction.atomic():
        if Repository.objects.filter(full_name=full_name).exists():
            raise RepositoryExists(f"the repository {full_name} exists already")
        try:
            with transaction.atomic():
                return _create(actor, full_name, fields, wanted)
        except IntegrityError as error:
            raise RepositoryExists(f"the repository {full_name} was created by somebody else at the same time") from error


def _create(actor: Actor, full_name: str, fields: dict[str, Any], labels: Mapping[str, str]) -> Repository:
    namespace_name, _, rest = full_name.partition("/")
    namespace, new = _namespace(namespace_name)
    collection, _ = folders.leaf(namespace, rest)
    repository = Repository.objects.create(namespace=namespace, name=rest, full_name=full_name, collection=collection, **fields)
    _set_labels(repository, labels)
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


def namespace_for(actor: Actor, name: str) -> Namespace:
    """The namespace, made when it is missing and `actor` may make repositories there. Within the caller's transaction."""
    check_name(name)
    if not Namespace.objects.filter(name=name).exists() and not access.may_create(actor, f"{name}/any"):
        raise Denied(f"there is no namespace {name!r}, or it is not yours", operation="Repository Create")
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
    collection, _ = folders.child(Collection.objects.get(path=COLLECTION), name)
    return Namespace.objects.create(name=name, kind=kind, owner_id=owner_id, collection=collection), True


def _record_namespace(actor: Actor, namespace: Namespace) -> None:
    events.record(
        "namespace.created",
        actor=actor,
        target=f"namespace/{namespace.name}",
        collection_path=namespace.collection.path,
        data={"kind": namespace.kind},
    )


def ensure_repository(actor: Actor, full_name: str) -> Repository:
    """The repository to push to, created when it is missing, the setting allows it and `actor` may. Raises RepositoryUnknown."""
    found = Repository.objects.filter(full_name=full_name).first()
    if found is not None:
        refuse_users(actor, found)
        return found
    if not switches.create_on_push():
        raise RepositoryUnknown(
            f"the repository {full_name} does not exist, and a push creates none here; create it first, in the console or with"
            f" `wharf repo create {full_name}` (administrators let pushes create with `wharf repo settings --create-on-push`)"
        )
    if not access.may_create(actor, full_name):
        raise RepositoryUnknown(
            f"the repository {full_name} does not exist, and you may not create it; ask the owner of"
            f" {full_name.partition('/')[0]!r} or an administrator"
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
    labels = checked_labels(fields.pop("labels")) if "labels" in fields else None
    with transaction.atomic():
        row = Repository.objects.select_for_update(of=("self",)).select_related("collection").get(pk=repository.pk)
        _check_version(row, version)
        changed = sorted(name for name, value in fields.items() if getattr(row, name) != value)
        for name in changed:
            setattr(row, name, fields[name])
        if labels is not None and _set_labels(row, labels):
            changed.append("labels")
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


def _set_labels(row: Repository, labels: Mapping[str, str]) -> bool:
    """Replace all labels; was there anything to change?"""
    if dict(row.labels.values_list("key", "value")) == dict(labels):
        return False
    row.labels.all().delete()
    Label.objects.bulk_create([Label(repository=row, key=key, value=value) for key, value in sorted(labels.items())])
    return True


def delete_repository(actor: Actor, repository: Repository, version: int | None = None, *, force: bool = False) -> None:
    """The repository with its tags, manifests and uploads; it can be brought back within the undo window.

    Raises RepositoryChanged, and without `force` ImageInUse while a node runs or a service names one of its images.
    """
    standing.refuse_writes(fresh=True)
    with transaction.atomic():
        if limit("UNDO_WINDOW") <= 0:
            _lock_contents(repository)
        row = Repository.objects.select_for_update(of=("self",)).select_related("collection", "namespace").get(pk=repository.pk)
        _check_version(row, version)
        if not force:
            _refuse_if_held(actor, row)
        tags = row.tags.count()
        collection = row.collection
        quotas.end_uploads(Upload.objects.filter(repository=row), fresh=True)
        row.deleted_at, row.deleted_by, row.former_name = timezone.now(), actor.name, row.full_name
        row.full_name, row.collection_id = f"~{row.pk}", row.namespace.collection_id
        row.save()
        # The row first: the folder's last repository must be gone from it.
        row.former_grants = folders.prune(collection)
        row.save(update_fields=["former_grants"])
        if limit("UNDO_WINDOW") <= 0:
            _forget(row)
        events.record(
            "repository.deleted",
            actor=actor,
            target=f"repository/{repository.pk}",
            collection_path=collection.path,
            data={"name": repository.full_name, "tags": tags, "grants": row.former_grants},
        )


def _refuse_if_held(actor: Actor, row: Repository) -> None:
    held = holders(row.full_name, Manifest.objects.filter(repository=row).values_list("digest", flat=True))
    if held:
        names = sorted({name for digest in held for name in held[digest]})
        raise ImageInUse(
            f"images of {row.full_name} are in use by {in_use_by(actor, names)}: stop what runs them, or delete with force",
            holders=names,
        )


def restore_repository(actor: Actor, key: str) -> tuple[Repository, int, int]:
    """Bring a deleted repository back under its name: (it, grants that stand again, grants that do not).

    Raises RepositoryUnknown, RepositoryExists.
    """
    standing.refuse_writes(fresh=True)
    with transaction.atomic():
        rows = Repository.everything.select_for_update(of=("self",)).select_related("namespace__collection")
        row = rows.filter(pk=key, deleted_at__gt=trash.window_start()).first()
        if row is None:
            raise RepositoryUnknown("there is no such deleted repository; its undo window may be over")
        if Repository.objects.filter(full_name=row.former_name).exists():
            raise RepositoryExists(
                f"there is a new repository {row.former_name}; delete it first, then the old one can come back"
            )
        collection, made = folders.leaf(row.namespace, row.name)
        former, row.former_grants = row.former_grants, []
        row.full_name, row.former_name, row.deleted_by, row.deleted_at = row.former_name, "", "", None
        row.collection, row.version = collection, row.version + 1
        row.save()
        back, left = folders.give_back(actor, former, made)
        events.record(
            "repository.restored",
            actor=actor,
            target=f"repository/{row.pk}",
            collection_path=collection.path,
            data={"name": row.full_name, "grants": back, "grants_left": left},
        )
    return row, back, left


def forget_repository(actor: Actor, key: str) -> None:
    """End the undo window of a deleted repository now. Raises RepositoryUnknown."""
    with transaction.atomic():
        rows = Repository.everything.select_for_update(of=("self",)).select_related("namespace__collection")
        row = rows.filter(pk=key, deleted_at__isnull=False).first()
        if row is None:
            raise RepositoryUnknown("there is no such deleted repository")
        path, name = row.namespace.collection.path, row.former_name
        _forget(row)
        events.record("repository.forgotten", actor=actor, target=f"repository/{key}", collection_path=path, data={"name": name})


def forget_repositories(before: datetime) -> int:
    """Forget what was deleted before `before`; returns how many."""
    count = 0
    for key in list(Repository.everything.filter(deleted_at__lt=before).values_list("id", flat=True)):
        with transaction.atomic():
            row = Repository.everything.select_for_update(of=("self",)).filter(pk=key, deleted_at__lt=before).first()
            if row is not None:
                _forget(row)
                count += 1
    return count


def _lock_contents(repository: Repository) -> None:
    """What `_forget` takes with it, before the repository's own lock (registry.models.blob): a push or a lease may hold it."""
    links = RepositoryBlob.objects.filter(repository=repository).values("blob_id")
    list(Blob.objects.select_for_update(no_key=True).filter(pk__in=links).order_by("id").values_list("id"))
    list(Manifest.objects.select_for_update(no_key=True).filter(repository=repository).order_by("id").values_list("id"))


def _forget(row: Repository) -> None:
    rooms = Repository.everything.filter(Q(pk=row.pk) | Q(trash_of=row))
    links = RepositoryBlob.objects.filter(repository__in=rooms)
    blobs = list(links.values_list("blob_id", flat=True))
    locked = Blob.objects.filter(pk__in=blobs).select_for_update(no_key=True).order_by("id")
    # Dropping a reference touches the blob: the grace begins when the last one goes.
    Blob.objects.filter(pk__in=list(locked.values_list("id", flat=True))).update(last_touched=timezone.now())
    row.delete()
    quotas.unlinked([(row.namespace_id, blob) for blob in blobs])


def _check_version(row: Repository, version: int | None) -> None:
    if version is not None and row.version != version:
        raise RepositoryChanged(f"{row.full_name} was changed by somebody else (version {row.version}); read it again")


def _check(fields: dict[str, Any]) -> None:
    visibility = fields.get("visibility")
    if visibility is not None and visibility not in Repository.Visibility.values:
        raise InvalidInput(f"visibility {visibility!r} is neither 'public' nor 'private'", field="visibility")
    if not 0 <= (fields.get("tag_limit") or 0) <= MAX_TAG_LIMIT:
        raise InvalidInput(f"a tag limit is a number from 1 to {MAX_TAG_LIMIT}, or 0 for none", field="tag_limit")
    if len(fields.get("description") or "") > 200:
        raise InvalidInput("the description has more than 200 characters; the readme has room", field="description")
