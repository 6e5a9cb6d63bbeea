"""Keys of access tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.jobs import Schedule, job

if TYPE_CHECKING:
    from controlplane.jobs import JobContext


@job("registry.keys", operation="Registry Rotate Keys", max_attempts=2, single=True)
def rotate_keys(ctx: JobContext) -> dict[str, str]:
    """A new signing key for access tokens. Tokens of the old one stay good until they expire."""
    from registry.token import keys

    kid = keys.rotate()
    ctx.log(f"Access tokens are signed with {kid} from now on.")
    return {"kid": kid}


SCHEDULES = [Schedule("registry.keys", "0 50 3 1 * *", priority=200)]
