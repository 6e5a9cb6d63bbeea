"""What follows an eviction: the image goes with its tag, as retention and pruning do it, unless something else needs it."""

from __future__ import annotations

from controlplane.api.actor import Actor
from controlplane.events.models import Event
from registry.actions import images
from registry.actions.reactions import reaction
from registry.errors import ImageInUse
from registry.models import Repository


@reaction("eviction", "tag.evicted")
def remove_image(event: Event) -> None:
    """After the push, not in it: an image's locks come before those of tags, which the push holds already."""
    found = Repository.objects.select_related("collection", "namespace__collection")
    repository = found.filter(pk=event.target.partition("/")[2]).first()
    if repository is None:
        return
    pusher = Actor(event.actor_kind, event.actor_id, event.actor_name)  # type: ignore[arg-type]  # a Kind, as it was recorded
    try:
        images.remove_untagged(pusher, repository, event.data["digest"])
    except ImageInUse:
        return  # leased since: who holds it keeps the image, without a tag
