"""What the supervisor says of each container now, kept from its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.protocol.states import ContainerState, Health

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Live:
    """Times are unix seconds, 0 = never. `exit_code` is None while it runs and when nobody saw the exit."""

    state: ContainerState
    health: Health = Health.NONE
    pid: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    started: float = 0.0
    finished: float = 0.0
    restarts: int = 0
    error: str = ""
    isolation: str = ""
    addresses: tuple[str, ...] = ()
    ports: tuple[Mapping[str, Any], ...] = ()

    @property
    def running(self) -> bool:
        return self.state in (ContainerState.RUNNING, ContainerState.PAUSED)


def live_from(record: Mapping[str, Any], addresses: tuple[str, ...], ports: tuple[Mapping[str, Any], ...]) -> Live:
    """From the supervisor's public record of a container."""
    health = record.get("health") or {}
    state = record["state"]
    return Live(
        state=ContainerState.CREATED if state == "creating" else ContainerState(state),  # the Engine API has no word for it
        health=Health(health["status"]) if health else Health.NONE,
        pid=record["pid"],
        exit_code=record["exit_code"] if record["exit_known"] else None,
        oom_killed=record["oom_killed"],
        started=record["started_at"] / NANO,
        finished=record["finished_at"] / NANO,
        restarts=record["restart_count"],
        error=record.get("error") or "",
        isolation=record["isolation"],
        addresses=addresses,
        ports=ports,
    )
