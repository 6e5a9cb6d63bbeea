"""Whether a container may manage its own cgroup (runtime-spec config-linux.md, "Cgroup ownership")."""

from __future__ import annotations

from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.plan import Plan


def cgroup_owner(plan: Plan) -> int | None:
    """The host's uid of the container's user, if the cgroup is to be its own: the container sees it as its root, may write to it,
    and its user is another one outside."""
    writable = any(step.kind == "cgroup" and not step.attr_set & api.MOUNT_ATTR_RDONLY for step in plan.mounts)
    if not (writable and plan.new_cgroup and plan.new_user):
        return None
    for line in plan.uid_map.splitlines():
        inside, outside, size = (int(word) for word in line.split())
        if inside <= plan.process.uid < inside + size:
            return int(outside + plan.process.uid - inside)
    return None
