"""The access port: `require`, `visible`, `explain`, and the catalogue of operations that every app registers.

The engine that answers is named in settings.ACCESS_ENGINE, because users and events lie beneath rbac (docs/adr/0002).
Operations are written "Type Verb": "Service Create", "Container Filesystem Read".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Protocol, TypeVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from agent.protocol.errors import Denied, InvalidInput, NotFound
from controlplane.api.actor import Actor

__all__ = ["AUTHENTICATED", "PUBLIC", "Decision", "Denied", "NotFound", "Resource", "explain", "register", "require", "visible"]

PUBLIC = "Public"  # a route that anybody may call, declared on purpose
AUTHENTICATED = "Authenticated"  # a route that concerns only the caller: any signed-in actor may call it

ModelT = TypeVar("ModelT", bound=models.Model)
Own = Callable[[Actor, str], Q | None]


@dataclass(frozen=True, slots=True)
class Resource:
    """One type of the catalogue.

    `operations` are verbs without the type's name; `gates` maps a verb to its gated parameters.
    `collection` is the ORM path from a row to its Collection; "" = the type lives at the root of the tree (users, roles);
    with an "@" before it, to a column that holds the collection's path as text.
    `own(actor, operation)` gives the rows that an actor holds by a relation and not by a grant: own tokens, public repositories.
    `admin_only` types are in no built-in role.
    """

    name: str
    model: str
    operations: tuple[str, ...]
    gates: Mapping[str, tuple[str, ...]]
    collection: str = "collection"
    own: Own | None = None
    admin_only: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer with its proof. `grants` decided: {"role", "collection", "subject"}; `missing` are gates that nobody granted."""

    allowed: bool
    reason: str
    operation: str
    collection: str
    grants: tuple[Mapping[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    can_view: bool = False
    hint: str = field(default="")


class Engine(Protocol):
    def explain(self, actor: Actor, operation: str, target: Any, gates: frozenset[str]) -> Decision: ...
    def visible(self, actor: Actor, queryset: Any, operation: str) -> Any: ...
    def subject_created(self, kind: str, subject: Any) -> None: ...
    def subject_removed(self, kind: str, subject_id: str) -> None: ...


_CATALOGUE: dict[str, Resource] = {}
_BY_MODEL: dict[str, Resource] = {}


def register(
    type_name: str,
    model_label: str,
    operations: Iterable[str],
    gates: Mapping[str, Iterable[str]] | None = None,
    *,
    collection: str = "collection",
    own: Own | None = None,
    admin_only: bool = False,
) -> Resource:
    """Adds a type to the catalogue; called from AppConfig.ready. `model_label` is "app.Model", or "" for a type without rows."""
    verbs = tuple(operations)
    if "View" not in verbs:
        raise InvalidInput(f"{type_name} needs the operation View: lists and 404 answers are judged by it.")
    gated = {verb: tuple(names) for verb, names in (gates or {}).items()}
    if unknown := set(gated) - set(verbs):
        raise InvalidInput(f"{type_name} has gates on unknown operations: {', '.join(sorted(unknown))}.")
    resource = Resource(type_name, model_label, verbs, gated, collection, own, admin_only)
    _CATALOGUE[type_name] = resource
    if model_label:
        _BY_MODEL[model_label.lower()] = resource
    return resource


def catalogue() -> Mapping[str, Resource]:
    """All registered types by name."""
    return dict(_CATALOGUE)


def is_operation(operation: str) -> bool:
    """Does the catalogue hold `operation`?"""
    try:
        split(operation)
    except InvalidInput:
        return False
    return True


def split(operation: str) -> tuple[Resource, str]:
    """("Service View Tasks") -> (Resource Service, "View Tasks"). Raises InvalidInput for names outside the catalogue."""
    type_name, _, verb = operation.partition(" ")
    resource = _CATALOGUE.get(type_name)
    if resource is None or verb not in resource.operations:
        raise InvalidInput(f"There is no operation {operation!r}. GET /api/v1/operations lists them.")
    return resource, verb


def resource_of(model: type[models.Model]) -> Resource | None:
    """The catalogue's entry for a model class, None when the model is no resource of its own."""
    return _BY_MODEL.get(model._meta.label_lower)


_asked: ContextVar[bool] = ContextVar("wharf_access_asked", default=False)


def begin() -> None:
    """Forgets what was asked in this context: the start of a request."""
    _asked.set(False)


def asked() -> bool:
    """Was `require` or `visible` called in this context since `begin`?"""
    return _asked.get()


@cache
def _engine() -> Engine:
    engine: Any = import_module(settings.ACCESS_ENGINE)
    return engine  # type: ignore[no-any-return]  # a module that fulfils the protocol


def require(actor: Actor, operation: str, target: Any = None, *, gates: frozenset[str] = frozenset()) -> None:
    """Returns when `actor` may do `operation` on `target` with every parameter in `gates`.

    `target` is a row, a Collection, a model class, or None for the root of the tree.
    Raises NotFound when the actor lacks the type's View on the target (its existence is none of their business), else Denied with
    the operation, the collection and the missing gates.
    """
    _asked.set(True)
    decision = explain(actor, operation, target, gates)
    if decision.allowed:
        return
    is_row = isinstance(target, models.Model)
    if is_row and not decision.can_view:
        raise NotFound(f"There is no such {split(operation)[0].name.lower()}, or you may not see it.")
    raise Denied(
        f"{decision.reason} {decision.hint}".strip(),
        operation=operation,
        collection=decision.collection,
        missing_gates=list(decision.missing),
    )


def visible(actor: Actor, queryset: models.QuerySet[ModelT], operation: str | None = None) -> models.QuerySet[ModelT]:
    """The rows of `queryset` on which `actor` holds `operation` (default: the View of the model's type), as one SQL filter."""
    _asked.set(True)
    if operation is None:
        resource = resource_of(queryset.model)
        if resource is None:
            raise InvalidInput(f"{queryset.model.__name__} is not in the catalogue: name an operation.")
        operation = f"{resource.name} View"
    return _engine().visible(actor, queryset, operation)  # type: ignore[no-any-return]  # same queryset type by contract


def explain(actor: Actor, operation: str, target: Any = None, gates: frozenset[str] = frozenset()) -> Decision:
    """The decision with its proof; never raises for a refusal."""
    return _engine().explain(actor, operation, target, gates)


def subject_created(kind: str, subject: Any) -> None:
    """Tells the engine of a new user (who gets a private collection), team or org, inside the creating transaction."""
    _engine().subject_created(kind, subject)


def subject_removed(kind: str, subject_id: str) -> None:
    """Tells the engine to drop the subject's grants, inside the removing transaction."""
    _engine().subject_removed(kind, subject_id)
