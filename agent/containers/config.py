"""The OCI config.json of a container: the spec's wishes laid over the runtime's defaults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agent.containers.process import argv, environment, working_dir
from agent.containers.user import ProcessUser
from agent.protocol.codec import InvalidSpec
from agent.protocol.spec import ContainerSpec, HealthCheck, Resources
from agent.runtime.caps import NAMES as ALL_CAPABILITIES
from agent.runtime.defaults import CAPABILITIES, default_config
from agent.sys.mount import Mount

CPU_PERIOD = 100_000  # microseconds, the kernel's default


def oci_config(
    spec: ContainerSpec,
    image_config: dict[str, Any],
    *,
    container_id: str,
    user: ProcessUser,
    hostname: str,
    sandbox: str | None,
    mounts: Iterable[Mount],
    cgroup_parent: str,
    ids: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """`sandbox` is the network namespace to join, None for the host's; `ids` the host's (first, count) of a container with a user
    namespace. Raises `InvalidSpec` for wishes that cannot be had."""
    if ids is not None and spec.privileged:
        raise InvalidSpec("user_namespace: not for a privileged container; leave one of the two out", field="user_namespace")
    config = default_config(
        argv(spec, image_config),
        env=environment(spec, image_config, hostname=hostname, home=user.home),
        cwd=working_dir(spec, image_config),
        uid=user.uid,
        gid=user.gid,
        additional_gids=list(user.additional),
        hostname=hostname,
        terminal=spec.tty,
        network=sandbox,
        capabilities=capabilities(spec),
        readonly_rootfs=spec.read_only,
        privileged=spec.privileged,
        userns=None if ids is None else (ids[0], ids[0], ids[1]),
    )
    config["mounts"] += [
        {"destination": mount.target, "type": mount.type, "source": mount.source, "options": list(mount.options)}
        for mount in mounts
    ]
    linux = config["linux"]
    linux["resources"].update(resources(spec.resources))
    if spec.resources.pids:
        linux["resources"]["pids"] = {"limit": spec.resources.pids}
    if spec.sysctls:
        linux.setdefault("sysctl", {}).update(spec.sysctls)
    linux["cgroupsPath"] = f"{cgroup_parent}/{container_id}"
    if spec.ulimits:
        config["process"]["rlimits"] = [
            {"type": f"RLIMIT_{name.upper()}", "soft": value, "hard": value} for name, value in sorted(spec.ulimits.items())
        ]
    return config


def capabilities(spec: ContainerSpec) -> tuple[str, ...]:
    """Defaults, without what is dropped, plus what is added; "ALL" works in both. Privileged has every one."""
    if spec.privileged:
        return ALL_CAPABILITIES
    added, dropped = _names(spec.cap_add, "cap_add"), _names(spec.cap_drop, "cap_drop")
    base: tuple[str, ...] = () if "CAP_ALL" in dropped else CAPABILITIES
    if "CAP_ALL" in added:
        base, added = ALL_CAPABILITIES, ()
    return tuple(dict.fromkeys(name for name in (*base, *added) if name not in dropped or name in added))


def _names(names: tuple[str, ...], field: str) -> tuple[str, ...]:
    full = tuple(name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}" for name in names)
    for name in full:
        if name != "CAP_ALL" and name not in ALL_CAPABILITIES:
            raise InvalidSpec(f"{field}: {name} is not a capability", field=field)
    return full


def resources(limits: Resources) -> dict[str, Any]:
    """The `linux.resources` part for memory and cpu; memory without swap of its own (--memory-swap equal to --memory)."""
    result: dict[str, Any] = {}
    if limits.memory:
        result["memory"] = {"limit": limits.memory, "swap": limits.memory}
    if limits.nano_cpus:
        result["cpu"] = {"period": CPU_PERIOD, "quota": max(1000, limits.nano_cpus * CPU_PERIOD // 1_000_000_000)}
    return result


def exec_process(
    base: dict[str, Any], command: tuple[str, ...], *, env: dict[str, str], cwd: str, tty: bool, user: ProcessUser | None
) -> dict[str, Any]:
    """The OCI process of an exec: the container's own, with another command and what the caller changed."""
    if not command:
        raise InvalidSpec("exec: a command is needed", field="command")
    process = dict(base["process"])
    process["args"] = list(command)
    process["terminal"] = tty
    variables = dict(item.partition("=")[::2] for item in process["env"])
    if tty:
        variables.setdefault("TERM", "xterm")
    if user is not None:
        variables["HOME"] = user.home
        process["user"] = {**process["user"], "uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional)}
        names = process["capabilities"]["bounding"] if user.uid == 0 else []
        process["capabilities"] = {**process["capabilities"], "effective": names, "permitted": names}
    process["env"] = [f"{key}={value}" for key, value in {**variables, **env}.items()]
    if cwd:
        process["cwd"] = cwd
    return process


def health_config(check: HealthCheck | None, image_config: dict[str, Any]) -> dict[str, Any] | None:
    """The supervisor's form (Engine API, nanoseconds): the spec's check, else the image's."""
    if check is None:
        return image_config.get("Healthcheck")
    second = 1_000_000_000
    return {
        "Test": ["CMD", *check.test],
        "Interval": int(check.interval * second),
        "Timeout": int(check.timeout * second),
        "StartPeriod": int(check.start_period * second),
        "StartInterval": int(check.start_interval * second),
        "Retries": check.retries,
    }
