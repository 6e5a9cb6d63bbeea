"""The one policy function: what a spec asks for beyond the defaults, by the names that roles grant (security.md 2.9).

Pure, over the one normalised spec of services, tasks and containers alike; it runs after all defaults and merges, immediately
before saving. A new field of ContainerSpec must be named here: a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from agent.protocol.logoptions import LOCAL_SYSLOG, parse_address
from agent.protocol.spec import ContainerSpec, MountType, NetworkMode

NOFILE_CAP = 1 << 20
ULIMIT_CAPS = {"nofile": NOFILE_CAP, "nproc": 1 << 16, "core": 1 << 62, "fsize": 1 << 62, "cpu": 1 << 62, "stack": 1 << 30}

# Fields that give nothing beyond the container's own bounds.
HARMLESS = frozenset(
    {
        "image", "command", "args", "env", "working_dir", "user", "hostname", "labels", "health", "stop_signal", "stop_grace",
        "tty", "open_stdin", "init", "read_only", "cap_drop", "user_namespace", "restart", "restart_max", "log_max_size",
        "log_max_files", "log_driver", "networks", "ports", "storage_size", "isolation",
    }
)  # fmt: skip


def _log_place(spec: ContainerSpec) -> str:
    """What of the node a syslog address reaches: "socket" (any of its sockets), "host" (its own services), or ""."""
    text = spec.log_options.get("syslog-address", "")
    if not text:
        return ""
    address = parse_address(text)
    if address.path:
        return "" if address.path == LOCAL_SYSLOG else "socket"
    try:
        host = ip_address(address.host)
    except ValueError:
        return "host" if address.host.rstrip(".").lower().endswith("localhost") else ""  # the node refuses names of itself
    mapped = getattr(host, "ipv4_mapped", None) or host
    return "host" if mapped.is_loopback or mapped.is_unspecified or mapped.is_link_local else ""


GATES: dict[str, tuple[frozenset[str], Callable[[ContainerSpec], bool]]] = {
    "Privileged": (frozenset({"privileged"}), lambda spec: spec.privileged),
    "Host Bind Mounts": (
        frozenset({"mounts", "log_options"}),
        lambda spec: any(mount.type is MountType.BIND for mount in spec.mounts) or _log_place(spec) == "socket",
    ),
    "Host Networking Mode": (
        frozenset({"network_mode", "log_options"}),
        lambda spec: spec.network_mode is NetworkMode.HOST or _log_place(spec) == "host",
    ),
    "Bridge Networking Mode": (
        frozenset({"network_mode", "networks"}),
        lambda spec: spec.network_mode is NetworkMode.BRIDGE and not spec.networks,
    ),
    "Additional Kernel Capabilities": (frozenset({"cap_add"}), lambda spec: bool(spec.cap_add)),
    "Sysctls": (frozenset({"sysctls"}), lambda spec: bool(spec.sysctls)),
    "Ulimits": (
        frozenset({"ulimits"}),
        lambda spec: any(value < 0 or value > ULIMIT_CAPS.get(name, 0) for name, value in spec.ulimits.items()),
    ),
    "No Process Limit": (frozenset({"resources"}), lambda spec: spec.resources.pids == 0),
}


def gates(spec: ContainerSpec) -> frozenset[str]:
    """The gated parameters that `spec` uses."""
    return frozenset(name for name, (_, uses) in GATES.items() if uses(spec))
