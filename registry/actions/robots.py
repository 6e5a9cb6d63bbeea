"""Making, changing and removing robots.

Nobody makes a robot that may more than they may themselves, nor gets hold of the secret of one that may: creating, changing and
rotating all ask whether the caller's own rights cover the robot's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from agent.protocol.errors import Conflict, Denied, InvalidInput, NotFound
from controlplane import events, rbac
from controlplane.api import versions
from controlplane.api.actor import Actor
from controlplane.rbac.models import Collection
from controlplane.users.credentials import digest, new_secret
from registry.actions import robot_login
from registry.actions.repositories import namespace_for
from registry.models import Namespace, Repository, Robot
from registry.queries import access, robots
from registry.seed import COLLECTION

EDITABLE = frozenset({"description", "rights", "cidrs", "expires_at", "disabled"})
MOST_RIGHTS = 50
_NAME = re.compile(r"\A[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?\Z")
Right = dict[str, Any]


class RobotExists(Conflict):
    code = "robot_exists"


def create_robot(
    actor: Actor,
    name: str,
    *,
    namespace: str = "",
    rights: Iterable[Mapping[str, Any]],
    description: str = "",
    cidrs: Iterable[str] = (),
    expires_at: datetime | None = None,
) -> tuple[Robot, str]:
    """(row, secret): the secret is never shown again. Without a namespace it is the system's, which administrators make.

    Raises InvalidInput, Denied, RobotExists.
    """
    if not _NAME.match(name):
        raise InvalidInput(
            "a robot's name has 1 to 100 lower-case letters, digits, '.', '_' or '-', and a letter or digit at both ends",
            field="name",
        )
    if not namespace:
        rbac.require(actor, "Robot Create")
    if not namespace and not actor.is_admin:
        raise Denied("only administrators make robots of the whole registry; name a namespace", operation="Robot Create")
    fields = _checked({"rights": rights, "description": description, "cidrs": cidrs, "expires_at": expires_at})
    secret = new_secret()
    try:
        with transaction.atomic():
            home = namespace_for(actor, namespace) if namespace else None
            collection = home.collection if home else Collection.objects.get(path=COLLECTION)
            if home is not None and not _governs(actor, home, "Robot Create"):
                raise Denied(
                    f"you may not make robots in {namespace!r}: its owner may, or who has Robot Create on {collection.path}",
                    operation="Robot Create",
                )
            _check_covered(actor, home, fields["rights"])
            row = Robot.objects.create(
                name=name,
                full_name=f"{namespace}+{name}",
                namespace=home,
                collection=collection,
                secret_hash=digest(secret),
                secret_made_at=timezone.now(),
                created_by=actor.name,
                **fields,
            )
            _record("robot.created", actor, row, rights=fields["rights"], expires_at=fields["expires_at"], cidrs=fields["cidrs"])
    except IntegrityError:
        raise RobotExists(f"there is a robot {namespace}+{name}; take another name, or rotate its secret") from None
    return row, robot_login.text_of(row, secret)


def update_robot(actor: Actor, row: Robot, version: int | None = None, **fields: Any) -> Robot:
    """Change some of EDITABLE. Raises InvalidInput, Denied, PreconditionFailed."""
    if unknown := sorted(set(fields) - EDITABLE):
        raise InvalidInput(f"a robot has no changeable field {', '.join(unknown)}")
    fields = _checked(fields)
    if set(fields) != {"disabled"} or not fields["disabled"]:
        _check_covered(actor, row.namespace, [*row.rights, *fields.get("rights", [])])
    with transaction.atomic():
        versions.write(row, version, **fields)
        _record("robot.updated", actor, row, **fields)
    return row


def rotate_robot(actor: Actor, row: Robot, version: int | None = None) -> str:
    """A new secret, shown once; the old one is worth nothing from now on, and neither are the tokens made with it."""
    _check_covered(actor, row.namespace, row.rights)
    secret = new_secret()
    with transaction.atomic():
        versions.write(row, version, secret_hash=digest(secret), secret_made_at=timezone.now())
        _record("robot.rotated", actor, row)
    return robot_login.text_of(row, secret)


def delete_robot(actor: Actor, row: Robot, version: int | None = None) -> None:
    versions.check(row, version)
    with transaction.atomic():
        _record("robot.deleted", actor, row)
        row.delete()


def _record(kind: str, actor: Actor, row: Robot, **data: Any) -> None:
    if data.get("expires_at"):
        data["expires_at"] = data["expires_at"].isoformat()
    path = row.collection.path
    events.record(kind, actor=actor, target=f"robot/{row.pk}", collection_path=path, data={"name": row.full_name, **data})


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as they are stored. Raises InvalidInput."""
    result = dict(fields)
    if "rights" in fields:
        result["rights"] = _rights(fields["rights"])
    if "cidrs" in fields:
        try:
            result["cidrs"] = sorted({str(ipaddress.ip_network(text.strip(), strict=False)) for text in fields["cidrs"]})
        except ValueError as error:
            raise InvalidInput(f"not a network: {error}; write 10.0.0.0/8 or 2001:db8::/32", field="cidrs") from None
    if fields.get("expires_at") is not None and fields["expires_at"] <= timezone.now():
        raise InvalidInput("the expiry lies in the past", field="expires_at")
    if len(fields.get("description") or "") > 200:
        raise InvalidInput("the description has more than 200 characters", field="description")
    return result


def _rights(given: Iterable[Mapping[str, Any]]) -> list[Right]:
    rights: list[Right] = [
        {"repositories": str(item.get("repositories", "")), "actions": sorted(set(item.get("actions", ())))} for item in given
    ]
    if not 1 <= len(rights) <= MOST_RIGHTS:
        raise InvalidInput(f"a robot has 1 to {MOST_RIGHTS} rights", field="rights")
    for right in rights:
        if not robots.GLOB.match(right["repositories"]):
            raise InvalidInput(
                f"{right['repositories']!r} names no repositories: write team/web, or team/* with * for any text", field="rights"
            )
        if not right["actions"] or set(right["actions"]) - set(robots.ACTIONS):
            raise InvalidInput(f"a right has some of the actions {', '.join(robots.ACTIONS)}", field="rights")
    return rights


def _governs(actor: Actor, namespace: Namespace, operation: str) -> bool:
    try:
        rbac.require(actor, operation, namespace.collection)
        return True
    except (Denied, NotFound):
        pass  # no grant; the namespace may be theirs all the same
    return actor.kind == "user" and actor.in_scope(operation) and access.owns_namespace(actor, namespace.name)


def _check_covered(actor: Actor, namespace: Namespace | None, rights: Iterable[Mapping[str, Any]]) -> None:
    """Raises Denied, naming what the actor lacks."""
    for right in rights:
        glob = right["repositories"]
        if namespace is not None and not (glob == namespace.name or glob.startswith(f"{namespace.name}/")):
            raise InvalidInput(
                f"a robot of {namespace.name} works in {namespace.name}/ alone, not in {glob}; the whole registry's are made by"
                " administrators",
                field="rights",
            )
        for action in right["actions"]:
            for operation in sorted(robots.ACTIONS[action]):
                if not _holds(actor, namespace, glob, operation):
                    raise Denied(
                        f"you lack {operation} on {glob} yourself, so no robot of yours may have it",
                        operation=operation,
                    )


def _holds(actor: Actor, namespace: Namespace | None, glob: str, operation: str) -> bool:
    """Does the actor hold `operation` on whatever `glob` matches, today and later?"""
    if actor.is_admin:
        return actor.in_scope(operation)
    if namespace is None:
        return False
    if _governs(actor, namespace, operation):
        return True
    literal = glob.partition("*")[0].partition("?")[0]
    if literal == glob:
        repository = Repository.objects.select_related("collection", "namespace").filter(full_name=glob).first()
        if repository is not None:
            return rbac.explain(actor, operation, repository).allowed
    folder = Collection.objects.filter(path=f"{COLLECTION}{literal.rpartition('/')[0]}/").first()
    return folder is not None and rbac.explain(actor, operation, folder).allowed
