"""Containers of an ordinary user: what config.json has to say then, and which cgroup there is for them.

As both peers: a user namespace that maps the user to root; what a user namespace may not mount is shown from the host; a cgroup
where one was delegated, else none, which is an error only for those who asked for a limit or for that very cgroup.
"""

from __future__ import annotations

import os

from agent.runtime import schema, shape, subids
from agent.runtime.cgroup import NO_CGROUP, delegation, hierarchies
from agent.runtime.errors import CgroupRefused, InvalidConfig
from agent.runtime.privilege import privileged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.plan import Plan

HOSTS_SYS = {"type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}


def adapted(config: dict[str, Any]) -> dict[str, Any]:
    """`config` for a user who is not root: with a user namespace, mappings, and mounts that such a one may have."""
    shape.check(config, schema.CONFIG, "")
    linux = dict(config["linux"])
    namespaces = list(linux.get("namespaces") or ())
    kinds = {entry["type"]: entry.get("path") or "" for entry in namespaces}
    if "user" not in kinds:
        namespaces.append({"type": "user"})
    if not kinds.get("user"):
        if not (linux.get("uidMappings") or linux.get("gidMappings")):
            linux["uidMappings"] = subids.mappings(subids.SUBUID, os.getuid(), os.geteuid())
            linux["gidMappings"] = subids.mappings(subids.SUBGID, os.getuid(), os.getegid())
        _check_user(config, linux)
    linux["namespaces"] = namespaces
    mounts = [_mount(mount, linux, new_network=kinds.get("network") == "") for mount in config.get("mounts") or ()]
    return {**config, "linux": linux, "mounts": mounts}


def _check_user(config: dict[str, Any], linux: dict[str, Any]) -> None:
    user = (config.get("process") or {}).get("user") or {}
    for key, mappings in (("uid", "uidMappings"), ("gid", "gidMappings")):
        if not _mapped(user.get(key) or 0, linux.get(mappings)):
            raise InvalidConfig(
                f"process.user.{key} {user.get(key) or 0} is not mapped: run as 0, or have ranges in {subids.SUBUID} and"
                f" {subids.SUBGID} that reach so far"
            )


def _mapped(inside: int, mappings: Any) -> bool:
    return any(item["containerID"] <= inside < item["containerID"] + item["size"] for item in mappings or ())


def _mount(mount: dict[str, Any], linux: dict[str, Any], *, new_network: bool) -> dict[str, Any]:
    if mount.get("type") == "sysfs" and not new_network:
        return {**mount, **HOSTS_SYS}  # sysfs shows a network namespace, and only its owner may mount it
    if mount.get("type") == "devpts":
        options = mount.get("options") or ()
        return {**mount, "options": [option for option in options if not _strange_group(option, linux)]}
    return mount


def _strange_group(option: str, linux: dict[str, Any]) -> bool:
    """gid=5, the terminals' group, where no more than one group is mapped."""
    key, _, value = option.partition("=")
    return key == "gid" and value.isdigit() and not _mapped(int(value), linux.get("gidMappings"))


def place(plan: Plan, lenient: bool) -> None:
    """Choose the container's cgroup. `lenient`: without permission for any it does with none, as a warning of the plan says.
    Raises CgroupRefused, in runc's words, where a limit or a cgroup was asked for."""
    wanted = plan.config["linux"].get("cgroupsPath") or ""
    fixed = wanted.startswith("/") or privileged()
    name = plan.cgroup_path if fixed else wanted or plan.id
    for path in [name] if fixed else [f"{parent}/{name}" for parent in delegation.parents()]:
        if hierarchies().usable(path).may_enter(path):
            plan.cgroup_path = path
            return
    limits = asked(plan.resources)
    if limits:
        raise CgroupRefused(
            f"cannot set {limits[0]} limit: container could not join or create cgroup: permission denied; leave the limits out,"
            " or have a cgroup delegated to you"
        )
    if wanted or not lenient:
        raise CgroupRefused(
            f"cannot make the cgroup {wanted or name}: permission denied; leave cgroupsPath out, or have a cgroup delegated"
        )
    plan.cgroup_path = NO_CGROUP
    plan.warnings.append("no cgroup is delegated to this user: the container has no limits, and cannot be paused")


def asked(resources: dict[str, Any]) -> list[str]:
    """The sections that limit something. Devices do not count: a user namespace fences them by itself."""
    return [name for name, section in resources.items() if name != "devices" and _limits(section)]


def _limits(section: Any) -> bool:
    if isinstance(section, dict):
        return any(_limits(value) for value in section.values())
    return section is not None and section is not False and section not in (-1, "", [])
