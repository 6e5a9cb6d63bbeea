"""The left rail: areas and their pages, those of the guests plugged in by name (`<guest>.console.nav.NAV`)."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.api import access, guests
from controlplane.api.access import AUTHENTICATED
from controlplane.api.actor import Actor

AREAS = ("Overview", "Workloads", "Fleet", "Registry", "Configuration", "Access", "Activity", "Settings")


@dataclass(frozen=True, slots=True)
class NavEntry:
    """One page of the rail. `go` is the letter after `g` that jumps to it; `operation` hides it from who could see nothing."""

    area: str
    label: str
    url_name: str
    icon: str
    operation: str = AUTHENTICATED
    go: str = ""


OWN = (
    NavEntry("Overview", "Overview", "overview", "layout-dashboard", go="o"),
    NavEntry("Access", "Users", "users", "users", "User View", go="u"),
    NavEntry("Access", "Access tokens", "tokens", "key", go="t"),
    NavEntry("Activity", "Jobs", "jobs", "list-check", "Job View", go="j"),
    NavEntry("Activity", "Events", "events", "history", "Event View", go="e"),
)


def entries() -> list[NavEntry]:
    """Every page, in the order of the areas."""
    found = [*OWN, *(entry for module in guests.modules("console.nav") for entry in module.NAV)]
    return sorted(found, key=lambda entry: AREAS.index(entry.area))


def rail(actor: Actor) -> list[tuple[str, list[NavEntry]]]:
    """(area, pages) that concern `actor`: administrators see all; others what is not for administrators alone."""
    areas: dict[str, list[NavEntry]] = {}
    for entry in entries():
        if entry.operation == AUTHENTICATED or actor.is_admin or not access.split(entry.operation)[0].admin_only:
            areas.setdefault(entry.area, []).append(entry)
    return list(areas.items())
