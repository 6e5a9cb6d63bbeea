"""The built-in roles, computed from the catalogue: a guest that registers a type finds it in them at the next migrate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from controlplane.api.access import Resource, catalogue

Operations = dict[str, dict[str, list[str]]]
Filter = Callable[[Resource, str], list[str] | None]  # the gates that come with a verb, None = the verb is not in the role

READING = frozenset({"View", "View Tasks", "History", "Search"})
TROUBLE = frozenset({"Logs", "Stats", "Top"})
ENTERING = frozenset({"Exec", "Attach"})  # full control of what they enter
HARMLESS_GATES = frozenset({"Bridge Networking Mode"})
NODE_ADMIN = frozenset({"Node Update"})
# what decides about others' rights or the record of what happened is no work on a resource
GOVERNING = frozenset({"Collection Create", "Collection Update", "Collection Delete", "Event Verify", "Event Compact"})
REPOSITORY_READ = frozenset({"View", "Pull"})
REPOSITORY_WRITE = REPOSITORY_READ | {"Push", "Scan", "Tag Delete"}


def _view_only(resource: Resource, verb: str) -> list[str] | None:
    return [] if verb in READING else None


def _troubleshoot(resource: Resource, verb: str) -> list[str] | None:
    return [] if verb in READING | TROUBLE else None


def _full_control(resource: Resource, verb: str) -> list[str] | None:
    name = f"{resource.name} {verb}"
    if name in NODE_ADMIN or name in GOVERNING or (resource.name == "Node" and verb not in {"View", "Schedule"}):
        return None
    return list(resource.gates.get(verb, ()))


def _restricted_control(resource: Resource, verb: str) -> list[str] | None:
    gates = _full_control(resource, verb)
    if gates is None or verb in ENTERING:
        return None
    return [gate for gate in gates if gate in HARMLESS_GATES]


def _scheduler(resource: Resource, verb: str) -> list[str] | None:
    return [] if f"{resource.name} {verb}" in {"Node View", "Node Schedule"} else None


def _repository(verbs: frozenset[str] | None) -> Filter:
    """All of `verbs` on repositories; None is everything on them and on the robots of their namespace."""

    def choose(resource: Resource, verb: str) -> list[str] | None:
        if resource.name != "Repository" and (verbs is not None or resource.name != "Robot"):
            return None
        if verbs is not None and verb not in verbs:
            return None
        return list(resource.gates.get(verb, ()))

    return choose


ROLES: Mapping[str, tuple[str, Filter]] = {
    "None": ("No access.", lambda resource, verb: None),
    "View Only": ("See everything, create nothing, read no logs.", _view_only),
    "Troubleshoot": ("View Only, with logs, statistics and process lists.", _troubleshoot),
    "Restricted Control": (
        "Full Control without entering containers and without anything that affects the node.",
        _restricted_control,
    ),
    "Scheduler": ("See nodes and place workloads on them; the workloads of others stay hidden.", _scheduler),
    "Full Control": ("All operations on the granted resources; nodes are changed by administrators only.", _full_control),
    "Registry Read": ("See and pull repositories.", _repository(REPOSITORY_READ)),
    "Registry Read-Write": ("Pull, push, scan and delete tags.", _repository(REPOSITORY_WRITE)),
    "Registry Admin": ("Everything on repositories, their policies, their access and their robots.", _repository(None)),
}


def operations(role: str) -> Operations:
    """What the built-in `role` allows with today's catalogue."""
    choose = ROLES[role][1]
    result: Operations = {}
    for resource in catalogue().values():
        if resource.admin_only:
            continue
        for verb in resource.operations:
            gates = choose(resource, verb)
            if gates is not None:
                result.setdefault(resource.name, {})[verb] = gates
    return result
