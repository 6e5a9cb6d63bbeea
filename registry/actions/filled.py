"""Repositories that a mirror or a proxy fills: nobody else writes there."""

from __future__ import annotations

from agent.protocol.errors import Denied
from controlplane.api.actor import Actor
from registry.models import Repository


class TargetReadOnly(Denied):
    code = "mirror_target_read_only"


def refuse_users(actor: Actor, repository: Repository) -> None:
    """Raises TargetReadOnly for people where another registry decides what is there; jobs of ours may write."""
    if actor.kind != "system":
        refuse_others(repository)


def refuse_others(repository: Repository) -> None:
    """Raises TargetReadOnly for whatever is not the repository's own mirror or proxy."""
    if repository.mirrored_from:
        raise TargetReadOnly(
            f"{repository.full_name} shows what {repository.mirrored_from} has, and nobody else writes to it; push there, or have"
            " the mirror or proxy of this repository removed"
        )
