"""What a reference means right now: the digest that a service is pinned to when it is created."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from agent.protocol.errors import InvalidInput
from agent.protocol.oci import Reference
from controlplane import rbac
from controlplane.api.actor import Actor
from registry.errors import ManifestUnknown, RepositoryUnknown
from registry.models import Manifest, Repository


class NotOurs(InvalidInput):
    """The reference names another registry: only its own can say what it means."""

    code = "foreign_registry"


@dataclass(frozen=True, slots=True)
class Pin:
    """`reference` is the text that a node pulls, "ns/name:tag@sha256:…" without a host; `size` is config and layers in bytes."""

    repository: str
    digest: str
    media_type: str
    size: int
    reference: str
    platforms: tuple[str, ...] = ()  # "linux/amd64" of the image, or of each image of an index; () = unknown


def is_ours(registry: str) -> bool:
    """Does the registry part of a reference mean this cluster? "" does, and so do its own host names with or without a port."""
    host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdigit() else registry
    return registry == "" or host in settings.HOSTNAMES or host in {"localhost", "127.0.0.1", "[::1]"}


def pin(text: str, actor: Actor) -> Pin:
    """Resolve `text` in this registry for `actor`, who needs Repository Pull.

    Raises NotOurs, RepositoryUnknown, ManifestUnknown, Denied, and what Reference.parse raises.
    """
    reference = Reference.parse(text)
    if not is_ours(reference.registry):
        raise NotOurs(
            f"{reference.registry} is another registry; push the image to this cluster's registry and name it without a host",
            registry=reference.registry,
        )
    repository = Repository.objects.select_related("collection").filter(full_name=reference.repository).first()
    if repository is None:
        raise RepositoryUnknown(f"there is no repository {reference.repository}; push an image to it first")
    rbac.require(actor, "Repository Pull", repository)
    rows = Manifest.objects.filter(repository=repository)
    target = reference.target
    found = (rows.filter(digest=target) if reference.digest else rows.filter(tags__name=target)).first()
    if found is None:
        raise ManifestUnknown(f"{reference.repository} has no {target}; `wharf repo tags {reference.repository}` lists its tags")
    tag = "" if reference.digest and not reference.tag else f":{reference.tag or 'latest'}"
    return Pin(
        repository=repository.full_name,
        digest=found.digest,
        media_type=found.media_type,
        size=found.total_size,
        reference=f"{repository.full_name}{tag}@{found.digest}",
        platforms=tuple(found.platforms),
    )
