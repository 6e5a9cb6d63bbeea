"""What is wanted: specs that travel from the API through the database and the link to a node.

One normalised spec for services, tasks and containers alike. Times are seconds (float), sizes are bytes, CPU is nano-CPUs
(1 core = 1_000_000_000), as in the Engine API. Every class checks itself; `agent.protocol.codec` turns them into JSON and back.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.protocol import logoptions
from agent.protocol.codec import InvalidSpec
from agent.protocol.oci import Reference

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
GIB = 1 << 30


def check_object_name(name: str, what: str) -> str:
    """Names of services, containers, networks, volumes: 1-63 characters, as Docker's grammar bounded by a DNS label."""
    if not NAME.fullmatch(name):
        raise InvalidSpec(
            f"{what} name {name[:80]!r} is not valid: a letter or digit, then at most 62 of letters, digits and _ . -",
            field="name",
        )
    return name


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class PublishMode(StrEnum):
    HOST = "host"  # on the node that runs the task
    INGRESS = "ingress"  # on every node


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One published port. `published` 0 lets the node choose."""

    target: int
    published: int = 0
    protocol: Protocol = Protocol.TCP
    host_ip: str = ""  # "" = every address of the node
    mode: PublishMode = PublishMode.HOST

    def __post_init__(self) -> None:
        if not 1 <= self.target <= 65535:
            raise InvalidSpec(f"target: port {self.target} is outside 1-65535", field="target")
        if not 0 <= self.published <= 65535:
            raise InvalidSpec(f"published: port {self.published} is outside 0-65535", field="published")
        if self.host_ip:
            try:
                ipaddress.ip_address(self.host_ip)
            except ValueError:
                raise InvalidSpec(f"host_ip: {self.host_ip!r} is not an IP address", field="host_ip") from None


class MountType(StrEnum):
    BIND = "bind"
    VOLUME = "volume"
    TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class MountSpec:
    """A bind (host path), a named volume ("" = anonymous) or a tmpfs at `target` inside the container."""

    type: MountType
    target: str
    source: str = ""
    read_only: bool = False
    tmpfs_size: int = 0  # bytes; 0 = the kernel's default

    def __post_init__(self) -> None:
        if not self.target.startswith("/") or "\0" in self.target or ".." in self.target.split("/"):
            raise InvalidSpec(f"target: {self.target!r} must be an absolute path without '..'", field="target")
        if self.type is MountType.BIND and not self.source.startswith("/"):
            raise InvalidSpec("source: a bind mount needs an absolute host path", field="source")
        if self.type is MountType.VOLUME and self.source:
            check_object_name(self.source, "volume")


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits (what the kernel enforces) and reservations (what the scheduler subtracts from the node)."""

    nano_cpus: int = 0  # limit; 0 = none
    memory: int = 0  # limit in bytes; 0 = none
    pids: int = 4096  # limit; 0 = none. On by default: a fork bomb stays inside its container
    reserve_nano_cpus: int = 0
    reserve_memory: int = 0

    def __post_init__(self) -> None:
        for name in ("nano_cpus", "memory", "pids", "reserve_nano_cpus", "reserve_memory"):
            if getattr(self, name) < 0:
                raise InvalidSpec(f"{name}: must not be negative", field=name)
        if 0 < self.memory < 6 << 20:
            raise InvalidSpec("memory: the least limit that can start a container is 6 MiB", field="memory")
        if self.memory and self.reserve_memory > self.memory:
            raise InvalidSpec("reserve_memory: is greater than the memory limit", field="reserve_memory")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Docker's health check. `test`: argv; "CMD-SHELL" forms are turned into ["/bin/sh", "-c", …] before they get here."""

    test: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    start_period: float = 0.0
    start_interval: float = 5.0
    retries: int = 3

    def __post_init__(self) -> None:
        if not self.test:
            raise InvalidSpec("test: a health check needs a command", field="test")
        if self.interval < 0.001 or self.timeout < 0.001 or self.retries < 1:
            raise InvalidSpec("interval and timeout must be at least 1 ms, retries at least 1", field="interval")


class RestartCondition(StrEnum):
    NONE = "none"
    ON_FAILURE = "on-failure"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a service replaces an ended task (SwarmKit): `window` 0 counts attempts for ever, `max_attempts` 0 = no limit."""

    condition: RestartCondition = RestartCondition.ANY
    delay: float = 5.0
    max_attempts: int = 0
    window: float = 0.0


class ContainerRestart(StrEnum):
    """Restart policy of a container started by hand: the supervisor restarts it in place. Tasks always have NO."""

    NO = "no"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"
    ON_FAILURE = "on-failure"


class NetworkMode(StrEnum):
    BRIDGE = "bridge"
    HOST = "host"
    NONE = "none"


class Isolation(StrEnum):
    """Whose child the container's process is: of the supervisor as all others, or of a shim of its own."""

    NODE = ""  # as the node is told: shared, if nothing else
    SHARED = "shared"
    SHIM = "shim"


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything a node needs to make a container, but for the image's own config, which it merges in underneath."""

    image: str
    command: tuple[str, ...] = ()  # replaces the image's ENTRYPOINT (and with it its CMD)
    args: tuple[str, ...] = ()  # replaces the image's CMD
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    user: str = ""  # name|uid[:group|gid], resolved inside the image
    hostname: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[MountSpec, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    network_mode: NetworkMode = NetworkMode.BRIDGE
    networks: tuple[str, ...] = ()  # names of networks; empty = the default bridge
    resources: Resources = Resources()
    health: HealthCheck | None = None
    stop_signal: str = ""  # "" = the image's, else SIGTERM
    stop_grace: float = 10.0
    tty: bool = False
    open_stdin: bool = False
    init: bool = False
    read_only: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ulimits: Mapping[str, int] = field(default_factory=dict)  # name without RLIMIT_, lower case -> soft = hard
    user_namespace: bool = False
    restart: ContainerRestart = ContainerRestart.NO
    restart_max: int = 0
    log_max_size: int = 10 << 20
    log_max_files: int = 3
    log_driver: str = logoptions.DEFAULT
    log_options: Mapping[str, str] = field(default_factory=dict)  # as Docker's --log-opt; see logoptions
    storage_size: int = 0  # bytes that the root file system may hold; 0 = the node's default
    isolation: Isolation = Isolation.NODE

    def __post_init__(self) -> None:
        Reference.parse(self.image)
        for key in self.env:
            if not key or "=" in key or "\0" in key:
                raise InvalidSpec(f"env: {key!r} is not a variable name", field="env")
        try:
            logoptions.parse(self.log_driver, self.log_options)
        except logoptions.InvalidLogOptions as error:
            where = "log_options" if error.extra["option"] else "log_driver"
            raise InvalidSpec(f"{where}: {error.detail}", field=where) from None
        if self.stop_grace < 0:
            raise InvalidSpec("stop_grace: must not be negative", field="stop_grace")
        if self.storage_size < 0:
            raise InvalidSpec("storage_size: must not be negative", field="storage_size")
        targets = [(port.published, port.protocol, port.host_ip) for port in self.ports if port.published]
        if len(targets) != len(set(targets)):
            raise InvalidSpec("ports: the same port is published twice", field="ports")
        if self.ports and self.network_mode is not NetworkMode.BRIDGE:
            raise InvalidSpec(f"ports: cannot be published in network mode {self.network_mode.value}", field="ports")


@dataclass(frozen=True, slots=True)
class Placement:
    """`constraints` as Docker's: "node.labels.zone==a", "node.id!=…", "node.hostname==…", "node.platform.arch==x86_64"."""

    constraints: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()  # label keys, e.g. "node.labels.zone"
    max_replicas_per_node: int = 0


class FailureAction(StrEnum):
    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class UpdateOrder(StrEnum):
    STOP_FIRST = "stop-first"
    START_FIRST = "start-first"


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """SwarmKit's update semantics; past `progress_deadline` (ours) a task that never got RUNNING counts as failed."""

    parallelism: int = 1  # 0 = all at once
    delay: float = 0.0
    monitor: float = 5.0
    failure_action: FailureAction = FailureAction.PAUSE
    max_failure_ratio: float = 0.0
    order: UpdateOrder = UpdateOrder.STOP_FIRST
    progress_deadline: float = 600.0


class ServiceMode(StrEnum):
    REPLICATED = "replicated"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What a user wants of a service. `container.image` is the text the user gave; the pinned digest is kept beside the spec."""

    name: str
    container: ContainerSpec
    mode: ServiceMode = ServiceMode.REPLICATED
    replicas: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    placement: Placement = Placement()
    restart: RestartPolicy = RestartPolicy()
    update: UpdateConfig = UpdateConfig()
    rollback: UpdateConfig = UpdateConfig()

    def __post_init__(self) -> None:
        check_object_name(self.name, "service")
        if not 0 <= self.replicas <= 10_000:
            raise InvalidSpec("replicas: must be 0-10000", field="replicas")
        if self.container.restart is not ContainerRestart.NO:
            raise InvalidSpec(
                "container.restart: a service replaces tasks by its own restart policy; leave this at 'no'",
                field="container.restart",
            )


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network of a node. Empty subnet = the next free one of the node's pools."""

    name: str
    driver: str = "bridge"
    subnet: str = ""
    gateway: str = ""
    internal: bool = False
    mtu: int = 1500
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_object_name(self.name, "network")
        if self.subnet:
            try:
                ipaddress.ip_network(self.subnet)
            except ValueError as error:
                raise InvalidSpec(f"subnet: {error}", field="subnet") from None
