"""Streams to containers: who may open one, the ticket for it, and whether the right still holds while it is open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction

from agent.protocol.codec import decode
from agent.protocol.errors import InvalidInput, NotFound, Unauthenticated
from controlplane import events
from controlplane.api.actor import Actor, actor_of_user
from controlplane.jobs.clock import database_now
from controlplane.rbac import require
from controlplane.users.models import Token, User
from nodes.models import Container, Service
from nodes.models.stream_ticket import LIFETIME, StreamTicket, hash_ticket, new_ticket

# What a stream target needs on each container, and on the service when a whole service's logs are read.
OPERATIONS: Mapping[str, str] = {"logs": "Container Logs", "exec": "Container Exec", "attach": "Container Attach"}
SERVICE_LOGS = "Service Logs"


@dataclass(frozen=True, slots=True)
class LogArgs:
    follow: bool = False
    tail: int = -1
    since: float = 0.0
    until: float = 0.0
    timestamps: bool = False
    stdout: bool = True
    stderr: bool = True


@dataclass(frozen=True, slots=True)
class ExecArgs:
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    cwd: str = ""
    tty: bool = False
    stdin: bool = False
    rows: int = 24
    cols: int = 80

    def __post_init__(self) -> None:
        if not self.command:
            raise InvalidInput("command: an exec needs one", field="command")
        if not (0 < self.rows <= 1000 and 0 < self.cols <= 1000):
            raise InvalidInput("rows, cols: must be 1-1000", field="rows")


@dataclass(frozen=True, slots=True)
class AttachArgs:
    stdin: bool = False


ARGS: Mapping[str, type[Any]] = {"logs": LogArgs, "exec": ExecArgs, "attach": AttachArgs}


@dataclass(frozen=True, slots=True)
class Grant:
    """A redeemed ticket: whose stream, to what. Containers are read again when it opens."""

    actor: Actor
    target: str
    containers: tuple[str, ...]
    service: str
    args: Mapping[str, Any]

    @property
    def operation(self) -> str:
        return SERVICE_LOGS if self.service else OPERATIONS[self.target]


class BadTicket(Unauthenticated):
    code = "bad_ticket"


def issue_ticket(
    actor: Actor, target: str, args: Mapping[str, Any], *, container: Container | None = None, service: Service | None = None
) -> str:
    """A ticket for one stream, good once and for 30 s; rights are asked on the parsed object. Raises `InvalidInput`, `Denied`."""
    if target not in ARGS:
        raise InvalidInput(f"target: must be one of {', '.join(ARGS)}", field="target")
    if (container is None) == (service is None):
        raise InvalidInput("name either a container or a service", field="container")
    if service is not None and target != "logs":
        raise InvalidInput("only the logs of a whole service can be streamed: name a container", field="target")
    decode(ARGS[target], args, path="args")
    if actor.user is None:
        raise Unauthenticated("streams are for users: log in, or use a personal access token")
    if container is not None:
        require(actor, OPERATIONS[target], container)
    if service is not None:
        require(actor, SERVICE_LOGS, service)
    text = new_ticket()
    with transaction.atomic():
        now = database_now()
        StreamTicket.objects.filter(expires_at__lt=now).delete()
        StreamTicket.objects.create(
            id=hash_ticket(text),
            user=actor.user,
            token_id=actor.token_id,
            address=actor.address,
            target=target,
            containers=[container.pk] if container else [],
            service=service.pk if service else "",
            args=dict(args),
            expires_at=now + LIFETIME,
        )
    return text


def redeem_ticket(text: str) -> Grant:
    """Take a ticket, once; records that an exec or attach was opened. Raises `BadTicket`."""
    refused = BadTicket("the ticket is unknown, used or older than 30 s: ask for a new one")
    with transaction.atomic():
        ticket = StreamTicket.objects.select_related("user").filter(pk=hash_ticket(text)).first()
        if ticket is None or not StreamTicket.objects.filter(pk=ticket.pk).delete()[0] or ticket.expired(database_now()):
            raise refused
        actor = current_actor(ticket.user_id, ticket.token_id, ticket.address)
        grant = Grant(actor, ticket.target, tuple(ticket.containers), ticket.service, ticket.args)
        if grant.target != "logs":
            row = Container.objects.select_related("collection").filter(pk__in=grant.containers).first()
            if row is None:
                raise NotFound("the container is gone")
            events.record(
                f"container.{grant.target}_opened",
                actor=actor,
                target=f"container/{row.container_id}",
                collection_path=row.collection.path,
                data={"command": list(grant.args.get("command", ())), "name": row.name},
            )
    return grant


def current_actor(user_id: str, token_id: str, address: str) -> Actor:
    """The user as they are now. Raises `BadTicket` when the account or the token has ended since."""
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None:
        raise BadTicket("the account was disabled")
    if not token_id:
        return actor_of_user(user, address=address)
    token = Token.objects.filter(pk=token_id, user=user, revoked_at=None).first()
    if token is None or (token.expires_at is not None and token.expires_at <= database_now()):
        raise BadTicket("the access token was revoked or has expired")
    return actor_of_user(
        user, address=address, scopes=None if token.scopes is None else frozenset(token.scopes), token_id=token_id
    )


def recheck(grant: Grant) -> None:
    """Ask again while the stream is open. Raises when the right, the account or the token is gone."""
    actor = current_actor(grant.actor.id, grant.actor.token_id, grant.actor.address)
    if grant.service:
        service = Service.objects.filter(pk=grant.service).first()
        if service is None:
            raise NotFound("the service was removed")
        require(actor, SERVICE_LOGS, service)
    for row in Container.objects.filter(pk__in=grant.containers):
        require(actor, OPERATIONS[grant.target], row)
