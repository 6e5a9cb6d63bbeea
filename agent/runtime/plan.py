"""From config.json to a plan: everything that can be parsed, checked or computed before the kernel is touched."""

from __future__ import annotations

from agent.runtime import caps, lock, mounts, spec
from agent.runtime.errors import InvalidConfig
from agent.runtime.seccomp import compile as seccomp_compile
from agent.sys import process
from agent.sys import seccomp as seccomp_kernel
from agent.sys.mount import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLONE_FLAGS = {
    "mount": process.CLONE_NEWNS,
    "pid": process.CLONE_NEWPID,
    "network": process.CLONE_NEWNET,
    "uts": process.CLONE_NEWUTS,
    "ipc": process.CLONE_NEWIPC,
    "cgroup": process.CLONE_NEWCGROUP,
    "user": process.CLONE_NEWUSER,
    "time": process.CLONE_NEWTIME,
}
# the order matters: the user namespace gives the right to enter the others, the mount namespace takes away the paths
JOIN_ORDER = ("user", "network", "ipc", "uts", "pid", "cgroup", "time", "mount")
PROPAGATION_FLAGS = {**mounts.PROPAGATION, "": 0}
FAIL_UNKNOWN = "run.oci.seccomp_fail_unknown_syscall"  # crun's annotation: an unknown system call name is an error
DEFAULT_DEVICES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))


class ProcessPlan:
    """A process to run in a container: its init, or an exec."""

    __slots__ = (
        "args", "caps", "console_size", "cwd", "env", "gid", "groups", "io_priority", "no_new_privs", "oom_score_adj", "rlimits",
        "scheduler", "terminal", "uid", "umask",
    )  # fmt: skip

    def __init__(self, config: dict[str, Any]) -> None:
        spec.validate_process(config)
        user = config.get("user") or {}
        self.args = [arg.encode(errors="surrogateescape") for arg in config["args"]]
        self.env = [item.encode(errors="surrogateescape") for item in config.get("env") or ()]
        self.cwd = config["cwd"].encode()
        self.uid, self.gid = user.get("uid", 0), user.get("gid", 0)
        self.groups = list(user.get("additionalGids") or ())
        self.umask = user.get("umask", 0o022)
        self.caps = caps.CapabilitySets(config.get("capabilities") or {})
        self.no_new_privs = bool(config.get("noNewPrivileges"))
        self.rlimits = [(spec.RLIMITS[item["type"]], item["soft"], item["hard"]) for item in config.get("rlimits") or ()]
        self.oom_score_adj: int | None = config.get("oomScoreAdj")
        self.terminal = bool(config.get("terminal"))
        size = config.get("consoleSize") or {}
        self.console_size = (size["height"], size["width"]) if size.get("height") and size.get("width") else None
        self.io_priority = _io_priority(config.get("ioPriority"))
        self.scheduler = _scheduler(config.get("scheduler"))


class Device:
    __slots__ = ("gid", "major", "minor", "mode", "path", "uid")

    def __init__(self, path: str, mode: int, major: int, minor: int, uid: int = 0, gid: int = 0) -> None:
        self.path = path.strip("/").encode()
        self.mode, self.major, self.minor, self.uid, self.gid = mode, major, minor, uid, gid


class Plan:
    """Everything `container.create` needs; holds no descriptor, so it may be kept, and used again for a restart."""

    __slots__ = (
        "annotations", "bundle", "cgroup_path", "clone_flags", "config", "devices", "domainname", "gid_map", "hooks", "hostname",
        "id", "joins", "lock", "masked", "mounts", "new_cgroup", "new_time", "new_user", "personality", "process", "readonly",
        "readonly_root", "resources", "root_propagation", "rootfs", "seccomp", "seccomp_flags", "sysctls", "time_offsets",
        "uid_map",
    )  # fmt: skip

    id: str
    config: dict[str, Any]
    bundle: str
    annotations: dict[str, str]
    process: ProcessPlan
    hooks: dict[str, list[dict[str, Any]]]
    clone_flags: int
    new_cgroup: bool
    new_time: bool
    new_user: bool
    lock: lock.Lock | None
    joins: list[tuple[str, int, str]]  # kind, CLONE_NEW flag, path
    uid_map: str
    gid_map: str
    time_offsets: str
    hostname: bytes
    domainname: bytes
    rootfs: list[mounts.MountStep]
    mounts: list[mounts.MountStep]
    readonly_root: bool
    root_propagation: tuple[int, bool]
    devices: list[Device]
    masked: list[bytes]
    readonly: list[bytes]
    sysctls: list[tuple[bytes, bytes]]  # path below /proc/sys, value
    seccomp: seccomp_kernel.Filter | None
    seccomp_flags: int
    resources: dict[str, Any]
    cgroup_path: str
    personality: int | None


def compile(config: dict[str, Any], *, id: str, rootfs: list[Mount] | None, cgroup_parent: str, bundle: str = "") -> Plan:
    """Check and parse `config`, no kernel work. `rootfs` is storage's list, the mount with target "" first; None takes the
    directory root.path of the bundle. The cgroup is linux.cgroupsPath if that is absolute, else below `cgroup_parent`."""
    spec.validate(config)
    linux = config["linux"]
    plan = Plan()
    plan.id, plan.config, plan.bundle = id, config, bundle
    plan.annotations = dict(config.get("annotations") or {})
    plan.process = ProcessPlan(config["process"])
    plan.hooks = {point: list(hooks) for point, hooks in (config.get("hooks") or {}).items() if hooks}
    _plan_namespaces(plan, config, linux)
    _plan_rootfs(plan, config, linux, rootfs)
    _plan_seccomp(plan, linux.get("seccomp"))
    plan.lock = lock.of(config)
    plan.resources = linux.get("resources") or {}
    path = linux.get("cgroupsPath") or ""
    plan.cgroup_path = path if path.startswith("/") else f"{cgroup_parent.rstrip('/')}/{path or id}"
    plan.sysctls = [(name.replace(".", "/").encode(), value.encode()) for name, value in (linux.get("sysctl") or {}).items()]
    persona = (linux.get("personality") or {}).get("domain")
    plan.personality = {None: None, "LINUX": 0, "LINUX32": 8}.get(persona, -1)
    if plan.personality == -1:
        raise InvalidConfig(f"personality {persona!r} is not known; use LINUX or LINUX32")
    return plan


def _plan_namespaces(plan: Plan, config: dict[str, Any], linux: dict[str, Any]) -> None:
    kinds = {entry["type"]: entry.get("path") or "" for entry in linux["namespaces"]}
    plan.clone_flags = 0
    for kind, path in kinds.items():
        if not path and kind not in ("cgroup", "time"):
            plan.clone_flags |= CLONE_FLAGS[kind]
    # cgroup: after joining, or the container sees /../..; time: offsets are set between unshare and entering
    plan.new_cgroup = kinds.get("cgroup") == ""
    plan.new_time = kinds.get("time") == ""
    plan.new_user = kinds.get("user") == ""
    plan.joins = [(kind, CLONE_FLAGS[kind], kinds[kind]) for kind in JOIN_ORDER if kinds.get(kind)]
    plan.uid_map = _id_map(linux.get("uidMappings"))
    plan.gid_map = _id_map(linux.get("gidMappings"))
    plan.hostname = str(config.get("hostname") or "").encode()
    plan.domainname = str(config.get("domainname") or "").encode()
    plan.time_offsets = "".join(
        f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n"
        for clock, offset in (linux.get("timeOffsets") or {}).items()
    )


def _plan_rootfs(plan: Plan, config: dict[str, Any], linux: dict[str, Any], rootfs: list[Mount] | None) -> None:
    if rootfs is None:
        path = config["root"]["path"]
        rootfs = [Mount("bind", path if path.startswith("/") else f"{plan.bundle}/{path}", "", ("rbind",))]
    if not rootfs or rootfs[0].target.strip("/"):
        raise InvalidConfig("the first mount of a root filesystem must have the target '', the root itself")
    plan.rootfs = [mounts.from_storage(mount) for mount in rootfs]
    plan.mounts = [mounts.from_oci(mount) for mount in config.get("mounts") or ()]
    plan.readonly_root = bool(config["root"].get("readonly"))
    plan.devices = [Device(name, 0o020666, 1, minor) for name, minor in DEFAULT_DEVICES]
    plan.devices.append(Device("tty", 0o020666, 5, 0))
    for device in plan.devices:
        device.path = b"dev/" + device.path
    plan.devices += [_device(item) for item in linux.get("devices") or ()]
    plan.masked = [path.strip("/").encode() for path in linux.get("maskedPaths") or ()]
    plan.readonly = [path.strip("/").encode() for path in linux.get("readonlyPaths") or ()]
    word = linux.get("rootfsPropagation") or ""
    plan.root_propagation = (PROPAGATION_FLAGS[word.removeprefix("r")], word.startswith("r"))


def _plan_seccomp(plan: Plan, profile: dict[str, Any] | None) -> None:
    plan.seccomp, plan.seccomp_flags = None, 0
    if profile:
        strict = FAIL_UNKNOWN in plan.annotations
        program, plan.seccomp_flags = seccomp_compile.compile_profile(profile, strict=strict)
        plan.seccomp = seccomp_kernel.Filter(program)
        if plan.seccomp_flags & seccomp_kernel.FLAG_NEW_LISTENER and not profile.get("listenerPath"):
            raise InvalidConfig("seccomp uses SCMP_ACT_NOTIFY without listenerPath; name the socket of the listener")


def _device(item: dict[str, Any]) -> Device:
    kinds = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}
    if item.get("type") not in kinds or not str(item.get("path", "")).startswith("/"):
        raise InvalidConfig(f"device {item!r} is not valid; it needs an absolute path and a type of c, u, b or p")
    mode = kinds[item["type"]] | item.get("fileMode", 0o666) & 0o7777
    return Device(item["path"], mode, item.get("major", 0), item.get("minor", 0), item.get("uid", 0), item.get("gid", 0))


def _id_map(entries: Any) -> str:
    return "".join(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in entries or ())


def _io_priority(config: dict[str, Any] | None) -> int | None:
    if not config:
        return None
    classes = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
    if config.get("class") not in classes:
        raise InvalidConfig(f"ioPriority class {config.get('class')!r} is not known; use one of {', '.join(classes)}")
    return classes[config["class"]] << 13 | int(config.get("priority", 0))


def _scheduler(config: dict[str, Any] | None) -> bytes | None:
    """struct sched_attr of SCHED_ATTR_SIZE_VER0 (sched_setattr(2))."""
    if not config:
        return None
    import struct

    policies = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
    flags = {"SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4}
    if config.get("policy") not in policies:
        raise InvalidConfig(f"scheduler policy {config.get('policy')!r} is not known; use one of {', '.join(policies)}")
    bits = 0
    for name in config.get("flags") or ():
        if name not in flags:
            raise InvalidConfig(f"scheduler flag {name!r} is not known; use one of {', '.join(flags)}")
        bits |= flags[name]
    numbers = [config.get(key, 0) for key in ("nice", "priority", "runtime", "deadline", "period")]
    return struct.pack("=IIQiIQQQ", 48, policies[config["policy"]], bits, *numbers)
