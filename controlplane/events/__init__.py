"""What happened, once: `record` writes a fact inside its own transaction, hash-chained to all facts before it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from controlplane.api.actor import Actor

if TYPE_CHECKING:
    from controlplane.events.models import Event

__all__ = ["observe", "record"]


def record(
    kind: str,
    *,
    actor: Actor,
    target: str = "",
    collection_path: str = "/",
    data: dict[str, Any] | None = None,
) -> "Event":
    """Appends one event in the caller's transaction; see controlplane.events.chain.append."""
    from controlplane.events.chain import append  # models need the app registry, which imports this package first

    return append(kind, actor=actor, target=target, collection_path=collection_path, data=data or {})


def observe(callback: "Callable[[Event], None]") -> None:
    """Calls `callback` after the commit of every event that this process records, in the thread that recorded it.

    A hint, not a promise: a process that dies between commit and call leaves it out. It must not raise and must be quick.
    """
    from controlplane.events import chain

    if callback not in chain.OBSERVERS:
        chain.OBSERVERS.append(callback)
