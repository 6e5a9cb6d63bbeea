"""Leases on the registry's images: what a service names or a container by hand runs is kept there, whatever users delete.

Whoever names an image takes its lease in the same transaction. `sync` gives back what nobody uses any more, and takes again what
is missing: it compares what is leased with what should be, and needs no memory of what happened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from agent.protocol.errors import WharfError
from agent.protocol.oci import Reference
from agent.protocol.states import ContainerState, TaskState
from controlplane.jobs.clock import database_now
from nodes.models import Container, Service, Task
from registry.actions import leases
from registry.queries import Pin, is_ours
from registry.queries.holders import expired, held_by, incomplete

KINDS = ("service", "container")
REPORTED_WITHIN = timedelta(minutes=5)  # a container that was just made is in its node's report
ENDED = (ContainerState.EXITED, ContainerState.DEAD)
Held = tuple[str, str]  # holder, digest


@dataclass(frozen=True, slots=True)
class Synced:
    """How many images."""

    leased: int
    released: int


def hold_for_service(service_id: str, pinned: Pin) -> None:
    """First in the transaction that writes the service. Raises ManifestUnknown when the image was deleted meanwhile."""
    leases.hold(pinned.repository, pinned.digest, f"service/{service_id}")


def keep_for_service(service_id: str, image: str) -> None:
    """As `hold_for_service`, for an image that the service names already: it may have been deleted with force."""
    leases.lease(image.partition("@")[2], f"service/{service_id}", repository=_repository(image))


def hold_for_action(action_id: str, pinned: Pin, lifetime: float) -> None:
    """Until the container that the action makes within `lifetime` seconds holds its image itself. Raises ManifestUnknown."""
    until = database_now() + timedelta(seconds=lifetime) + REPORTED_WITHIN
    leases.hold(pinned.repository, pinned.digest, f"action/{action_id}", until)


def sync() -> Synced:
    """Bring the leases to what services, their tasks and containers by hand use now."""
    # Leases are read first, and a service before its tasks: what is written in between is then seen as used.
    held = held_by(*KINDS)
    used = _used()
    released = sum(_give_back(holder, digest) for holder, digest in sorted(held - used.keys()))
    released += sum(leases.release(holder, digest) for holder, digest in sorted(expired()))
    missing = (used.keys() - held) | (incomplete(*KINDS) & used.keys())
    for holder, digest in sorted(missing):
        leases.lease(digest, holder, repository=used[holder, digest])
    return Synced(leased=len(missing), released=released)


def _give_back(holder: str, digest: str) -> int:
    kind, _, key = holder.partition("/")
    return leases.release(holder, digest, unless=lambda: (holder, digest) in _used(**{kind: key}))


def _used(service: str = "", container: str = "") -> dict[Held, str]:
    """From which repository; of all services and containers, or of one of them."""
    if service:
        return dict(_of_services(service))
    if container:
        return dict(_of_containers(container))
    return {**dict(_of_services()), **dict(_of_containers())}


def _repository(image: str) -> str:
    """Of an image as a service names it: "ns/name:tag@sha256:…"."""
    return Reference.parse(image).repository


def _entry(holder: str, image: str) -> tuple[Held, str]:
    return (holder, image.partition("@")[2]), _repository(image)


def _of_services(only: str = "") -> Iterator[tuple[Held, str]]:
    services = Service.objects.order_by()
    tasks = Task.objects.order_by().filter(observed__lte=TaskState.RUNNING)
    if only:
        services, tasks = services.filter(pk=only), tasks.filter(service=only)
    # One that is being removed names nothing any more: its tasks do, until they have ended.
    specs = list(services.standing().values_list("pk", "image", "previous__image"))
    for key, image in tasks.values_list("service_id", "image").distinct():
        yield _entry(f"service/{key}", image)
    for key, image, before in specs:
        if before:
            yield _entry(f"service/{key}", before)
        yield _entry(f"service/{key}", image)


def _of_containers(only: str = "") -> Iterator[tuple[Held, str]]:
    rows = Container.objects.order_by().filter(task=None, image__contains="@").exclude(state__in=ENDED)
    if only:
        rows = rows.filter(pk=only)
    for key, image in rows.values_list("pk", "image"):
        try:
            reference = Reference.parse(image)
        except WharfError:
            continue  # the node's words: not a reference
        if reference.digest and is_ours(reference.registry):
            yield (f"container/{key}", str(reference.digest)), reference.repository
