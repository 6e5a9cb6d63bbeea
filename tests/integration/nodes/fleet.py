"""Rows to test with: nodes that joined and linked, an image in the registry, specs."""

from __future__ import annotations

import hashlib
import time
from datetime import timedelta
from typing import Any

from django.utils import timezone

from agent.protocol.messages import Hello, Inventory, TaskStatus
from agent.protocol.oci import MEDIA_OCI_MANIFEST
from agent.protocol.spec import ContainerSpec, PortSpec, Resources, ServiceSpec
from agent.protocol.states import TaskState
from controlplane.api.actor import Actor, actor_of_user
from controlplane.rbac import collections
from controlplane.rbac.models import Collection
from controlplane.users.models import User
from nodes import actions
from nodes.models import Node, Service, Task, WebProcess
from registry.models import Manifest, Namespace, Repository, Tag

DIGEST = "sha256:" + hashlib.sha256(b"web").hexdigest()
OTHER = "sha256:" + hashlib.sha256(b"web2").hexdigest()
GIB = 1 << 30


def user(name: str, *, admin: bool = False) -> Actor:
    """A user with a private collection, as an actor."""
    from controlplane.api import access

    row = User.objects.create(username=name, is_admin=admin, password="!")
    access.subject_created("user", row)
    return actor_of_user(row)


def image(name: str = "library/web", *, tags: dict[str, str] | None = None, public: bool = True) -> Repository:
    """A repository with tagged manifests: tag -> digest."""
    namespace, _ = Namespace.objects.get_or_create(
        name=name.partition("/")[0], defaults={"kind": "plain", "collection": collections.shared()}
    )
    flat = name.replace("/", "-")
    leaf = Collection.objects.create(name=flat, parent=collections.shared(), path=f"/Shared/{flat}/")
    repository = Repository.objects.create(
        namespace=namespace,
        name=name.partition("/")[2],
        full_name=name,
        collection=leaf,
        visibility="public" if public else "private",
    )
    for tag, digest in (tags or {"1": DIGEST, "2": OTHER}).items():
        manifest, _ = Manifest.objects.get_or_create(
            repository=repository,
            digest=digest,
            defaults={"media_type": MEDIA_OCI_MANIFEST, "content": b"{}", "size": 2, "platforms": ["linux/amd64"]},
        )
        Tag.objects.create(repository=repository, name=tag, manifest=manifest, pushed_at=timezone.now())
    return repository


def node(name: str, *, memory: int = 8 * GIB, linked: bool = True, collection: Collection | None = None, **fields: Any) -> Node:
    """A node that joined; with `linked`, one with a session too."""
    row = Node.objects.create(
        hostname=name,
        collection=collection or collections.shared(),
        fingerprint=hashlib.sha256(name.encode()).hexdigest(),
        certificate_until=timezone.now() + timedelta(days=30),
        approved_at=timezone.now(),
        architecture="amd64",
        nano_cpus=4_000_000_000,
        memory=memory,
        **fields,
    )
    if linked:
        link(row)
    return row


def hello(*, epoch: int = 0, assign_rev: int = 0, boot_id: str = "boot-1") -> Hello:
    return Hello(versions=(1,), agent_version="0.1", boot_id=boot_id, epoch=epoch, assign_rev=assign_rev)


def link(row: Node, *, boot_id: str = "boot-1") -> int:
    """Register; the epoch."""
    # A web process that is known to write leases, so that silence is the node's own.
    listening = timezone.now() + timedelta(hours=1)
    web = {"host": "h", "port": 1, "lease_until": listening, "seen_at": listening}
    WebProcess.objects.get_or_create(pk="web-1", defaults=web)
    epoch = actions.register(row.pk, hello(boot_id=boot_id), f"session-{row.pk}-{row.epoch}", "web-1").epoch
    row.refresh_from_db()
    return epoch


def inventory(epoch: int, **fields: Any) -> Inventory:
    values: dict[str, Any] = {
        "hostname": "h", "os": "linux", "architecture": "x86_64", "kernel": "6", "cores": 4, "nano_cpus": 4_000_000_000,
        "memory": 8 * GIB, "disk": 1, "disk_free": 1, "cgroup": "v1", "graph_driver": "overlay2", "agent_version": "0.1",
    }  # fmt: skip
    return Inventory(epoch=epoch, **{**values, **fields})


def spec(name: str = "web", *, tag: str = "1", memory: int = 0, port: int = 0, **fields: Any) -> ServiceSpec:
    container: dict[str, Any] = fields.pop("container", {})
    return ServiceSpec(
        name=name,
        container=ContainerSpec(
            image=f"library/web:{tag}",
            resources=Resources(reserve_memory=memory),
            ports=(PortSpec(80, port),) if port else (),
            **container,
        ),
        **fields,
    )


def status(task: Task, observed: TaskState, at: float = 1.0, **fields: Any) -> TaskStatus:
    return TaskStatus(task.pk, observed, at, **fields)


def obey(limit: int = 40) -> None:
    """Reconcile, and let every linked node do what it is told, until both rest."""
    for _ in range(limit):
        done = actions.reconcile_round()
        # Timers of a millisecond are over before the next round.
        moved = done.changes or int(done.wake_at is not None and done.wake_at - time.time() < 0.001)
        for row in Node.objects.exclude(session=""):
            moved += _obey(row)
        if not moved:
            return
    raise AssertionError("the fleet does not come to rest")


def _obey(row: Node) -> int:
    statuses = []
    for task in Task.objects.assigned_to(row.pk):
        observed = TaskState(task.observed)
        if observed.terminal:
            continue
        if task.desired > TaskState.RUNNING:
            statuses.append(status(task, TaskState.SHUTDOWN, exit_code=0))
        elif observed < TaskState(task.desired):
            statuses.append(status(task, TaskState(task.desired)))
    return actions.report(row.pk, row.epoch, statuses) if statuses else 0


def running(service: Service) -> dict[str, int]:
    """Wanted running tasks by host name."""
    counts: dict[str, int] = {}
    for task in Task.objects.live().filter(service=service, observed=TaskState.RUNNING).select_related("node"):
        assert task.node is not None
        counts[task.node.hostname] = counts.get(task.node.hostname, 0) + 1
    return counts
