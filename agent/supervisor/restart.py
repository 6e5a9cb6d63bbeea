"""Restart policies: decided purely, from what is on record."""

from __future__ import annotations

from agent.protocol.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIRST = 0.1  # s
LAST = 60.0  # s
GOOD_RUN = 10.0  # s: a run this long forgets the back-off
NAMES = ("no", "always", "unless-stopped", "on-failure")


class InvalidRestartPolicy(InvalidInput):
    """The restart policy cannot work."""

    code = "invalid_restart_policy"


def validate(policy: dict[str, Any]) -> None:
    """Raises InvalidRestartPolicy. Shape: {"name": one of NAMES, "max": n}; max only counts for on-failure, 0 = no limit."""
    name, most = policy.get("name", "no"), policy.get("max", 0)
    if name not in NAMES:
        raise InvalidRestartPolicy(f"restart policy {name!r}: use one of {', '.join(NAMES)}")
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise InvalidRestartPolicy(f"restart policy max is {most!r}: it has to be a whole number of at least 0")


def wanted(policy: dict[str, Any], *, exit_code: int | None, stopped: bool, count: int) -> bool:
    """Whether to start again. `stopped`: somebody asked for the end. An unknown exit counts as a failure: up is the safe side."""
    name = policy.get("name", "no")
    if stopped or name == "no":
        return False
    if name == "on-failure":
        most = policy.get("max", 0)
        return exit_code != 0 and (most == 0 or count < most)
    return True


def backoff(previous: float, ran: float) -> float:
    """Seconds to wait before this restart, given the wait before the previous one (0 = none) and how long the run lasted."""
    if previous == 0 or ran >= GOOD_RUN:
        return FIRST
    return min(previous * 2, LAST)
