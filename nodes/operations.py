"""Operations on the fleet (control-plane.md 2.1, extended), and who holds tasks' containers: whoever holds their collection."""

from __future__ import annotations

from controlplane.api.access import register

# What a container may ask for beyond the defaults: each needs its own permission, on services as on containers.
GATES = (
    "Privileged",
    "Host Bind Mounts",
    "Host Networking Mode",
    "Bridge Networking Mode",
    "Additional Kernel Capabilities",
    "Sysctls",
    "Ulimits",
    "No Process Limit",
)

OPERATIONS = {
    "Node": ["View", "Schedule", "Update", "Approve", "Remove"],
    "JoinToken": ["View", "Create", "Revoke"],
    "Service": ["View", "View Tasks", "Create", "Update", "Delete", "Logs"],
    "Container": [
        "View", "Create", "Start", "Stop", "Restart", "Kill", "Pause", "Unpause", "Remove", "Exec", "Attach", "Logs", "Stats",
        "Top", "Resize", "Wait", "Changes", "Export", "Filesystem Read", "Filesystem Write", "Rename",
    ],
    "Action": ["View"],
}  # fmt: skip


def register_all() -> None:
    register("Node", "nodes.Node", OPERATIONS["Node"])
    register("JoinToken", "nodes.JoinToken", OPERATIONS["JoinToken"], admin_only=True)
    register("Service", "nodes.Service", OPERATIONS["Service"], {"Create": GATES, "Update": GATES})
    register("Container", "nodes.Container", OPERATIONS["Container"], {"Create": GATES})
    register("Action", "nodes.Action", OPERATIONS["Action"])
