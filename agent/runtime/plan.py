"""From config.json to a plan: everything that can be parsed, checked or computed before the kernel is touched."""

from __future__ import annotations

import os

from agent.runtime import caps, labels, lock, mounts, ranges, resctrl, schema, spec
from agent.runtime.cgroup import NO_CGROUP
from agent.runtime.errors import InvalidConfig
from agent.runtime.processplan import ProcessPlan
from agent.runtime.seccomp import compile as seccomp_compile
from agent.sys import cred, process
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
NO_PROCESS: dict[str, Any] = {"args": ["true"], "cwd": "/"}  # a container without `process` can be created, not started
DEFAULT_DEVICES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))


class Device:
    __slots__ = ("gid", "major", "minor", "mode", "path", "uid")

    def __init__(self, path: str, mode: int, major: int, minor: int, uid: int = 0, gid: int = 0) -> None:
        self.path = path.strip("/").encode(errors="surrogateescape")
        self.mode, self.major, self.minor, self.uid, self.gid = mode, major, minor, uid, gid


class Plan:
    """Everything `container.create` needs; holds no descriptor, so it may be kept, and used again for a restart."""

    __slots__ = (
        "annotations", "bundle", "cgroup_path", "clone_flags", "config", "devices", "domainname", "gid_map", "hooks", "hostname",
        "id", "joins", "lock", "masked", "memory_policy", "mounts", "net_devices", "new_cgroup", "new_mount", "new_time",
        "new_user", "personality", "process", "readonly", "readonly_root", "resctrl", "resources", "root_propagation", "rootfs",
        "seccomp", "seccomp_flags", "sysctls", "time_offsets", "uid_map", "warnings",
    )  # fmt: skip

    id: str
    config: dict[str, Any]
    bundle: str
    annotations: dict[str, str]
    process: ProcessPlan
    hooks: dict[str, list[dict[str, Any]]]
    clone_flags: int
    new_cgroup: bool
    new_mount: bool  # else the mount namespace is the caller's, or another's
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
    resctrl: resctrl.Class | None
    memory_policy: tuple[int, int] | None  # mode with flags, nodes as a mask
    net_devices: list[tuple[str, str]]  # name on the host, name or template in the container
    warnings: list[str]  # what is asked for in vain, by the spec no error


def compile(
    config: dict[str, Any],
    *,
    id: str,
    rootfs: list[Mount] | None,
    cgroup_parent: str,
    bundle: str = "",
    cgroup_manager: str = "cgroupfs",
) -> Plan:
    """Check and parse `config`, no kernel work. `rootfs` is storage's list, the mount with target "" first; None takes the
    directory root.path of the bundle. The cgroup is linux.cgroupsPath if that is absolute, else below `cgroup_parent`."""
    spec.validate(config)
    linux = config["linux"]
    plan = Plan()
    plan.id, plan.config, plan.bundle, plan.warnings = id, config, bundle, []
    plan.annotations = dict(config.get("annotations") or {})
    plan.process = ProcessPlan(config.get("process") or NO_PROCESS, plan.annotations)
    plan.hooks = {point: list(hooks) for point, hooks in (config.get("hooks") or {}).items() if hooks}
    _plan_namespaces(plan, config, linux)
    _plan_rootfs(plan, config, linux, rootfs)
    _plan_seccomp(plan, linux.get("seccomp"))
    plan.lock = lock.of(config)
    plan.resources = linux.get("resources") or {}
    plan.cgroup_path = _cgroup_path(linux.get("cgroupsPath") or "", id, cgroup_parent, cgroup_manager)
    sysctls = (linux.get("sysctl") or {}).items()
    plan.sysctls = [(os.fsencode(spec.sysctl_path(name)), os.fsencode(value)) for name, value in sysctls]
    persona = linux.get("personality")
    plan.personality = {"LINUX": 0, "LINUX32": 8}[persona["domain"]] if persona else None
    plan.resctrl = resctrl.Class(linux["intelRdt"], id) if linux.get("intelRdt") is not None else None
    plan.memory_policy = _memory_policy(linux.get("memoryPolicy"))
    plan.net_devices = [(name, (item or {}).get("name") or name) for name, item in (linux.get("netDevices") or {}).items()]
    _warn(plan, linux)
    return plan


def _warn(plan: Plan, linux: dict[str, Any]) -> None:
    grantable = (1 << len(caps.NAMES)) - 1 if plan.new_user else cred.permitted_capabilities()
    plan.warnings += caps.warnings(plan.process.caps, grantable)
    if linux.get("mountLabel") and not labels.selinux_runs():
        plan.warnings.append("linux.mountLabel is left out: this node does not run SELinux")
    if (plan.resources.get("memory") or {}).get("kernel"):
        plan.warnings.append("resources.memory.kernel is left out: kernels since 5.16 have no such limit")


def _cgroup_path(path: str, id: str, parent: str, manager: str) -> str:
    """As `Cgroup` takes it. `manager`: cgroupfs, systemd, or disabled."""
    if manager == "disabled":
        return NO_CGROUP
    if manager == "systemd":
        return path or f":wharf:{id}"
    return path if path.startswith("/") else f"{parent.rstrip('/')}/{path or id}"


def _plan_namespaces(plan: Plan, config: dict[str, Any], linux: dict[str, Any]) -> None:
    kinds = {entry["type"]: entry.get("path") or "" for entry in linux.get("namespaces") or ()}
    plan.clone_flags = 0
    for kind, path in kinds.items():
        if not path and kind not in ("cgroup", "time"):
            plan.clone_flags |= CLONE_FLAGS[kind]
    # cgroup: after joining, or the container sees /../..; time: offsets are set between unshare and entering
    plan.new_cgroup = kinds.get("cgroup") == ""
    plan.new_mount = kinds.get("mount") == ""
    plan.new_time = kinds.get("time") == ""
    plan.new_user = kinds.get("user") == ""
    plan.joins = [(kind, CLONE_FLAGS[kind], kinds[kind]) for kind in JOIN_ORDER if kinds.get(kind)]
    plan.uid_map = mounts.id_map(linux.get("uidMappings"))
    plan.gid_map = mounts.id_map(linux.get("gidMappings"))
    plan.hostname = str(config.get("hostname") or "").encode(errors="surrogateescape")
    plan.domainname = str(config.get("domainname") or "").encode(errors="surrogateescape")
    plan.time_offsets = "".join(
        f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}\n"
        for clock, offset in (linux.get("timeOffsets") or {}).items()
    )


def _plan_rootfs(plan: Plan, config: dict[str, Any], linux: dict[str, Any], rootfs: list[Mount] | None) -> None:
    if rootfs is None:
        path = config["root"]["path"]
        rootfs = [Mount("bind", path if path.startswith("/") else f"{plan.bundle}/{path}", "", ("rbind",))]
    if not rootfs or rootfs[0].target.strip("/"):
        raise InvalidConfig("the first mount of a root filesystem must have the target '', the root itself")
    plan.rootfs = [mounts.from_storage(mount) for mount in rootfs]
    plan.mounts = [mounts.from_oci(mount, plan.bundle) for mount in config.get("mounts") or ()]
    _label_mounts(plan, linux.get("mountLabel") or "")
    for step in plan.mounts:
        if step.idmap and not (step.uid_map or plan.new_user):
            raise InvalidConfig(
                f"mount of {step.target.decode()!r} has the option idmap, but neither mappings nor a user namespace"
            )
    plan.readonly_root = bool(config["root"].get("readonly"))
    plan.devices = _devices(linux.get("devices") or ())
    plan.masked = [path.strip("/").encode(errors="surrogateescape") for path in linux.get("maskedPaths") or ()]
    plan.readonly = [path.strip("/").encode(errors="surrogateescape") for path in linux.get("readonlyPaths") or ()]
    word = linux.get("rootfsPropagation") or ""
    plan.root_propagation = (PROPAGATION_FLAGS[word.removeprefix("r")], word.startswith("r"))


def _label_mounts(plan: Plan, label: str) -> None:
    if label and labels.selinux_runs():
        for step in (plan.rootfs[0], *plan.mounts):
            if step.kind == "fs":
                step.params += labels.mount_context(label, step.fstype)


def _devices(wanted: Any) -> list[Device]:
    """Those that every container has, but for the paths at which others are asked for."""
    asked = [_device(item) for item in wanted]
    taken = {device.path for device in asked}
    found = [Device("/dev/" + name, 0o020666, 1, minor) for name, minor in DEFAULT_DEVICES]
    found.append(Device("/dev/tty", 0o020666, 5, 0))
    return [device for device in found if device.path not in taken] + asked


def _plan_seccomp(plan: Plan, profile: dict[str, Any] | None) -> None:
    plan.seccomp, plan.seccomp_flags = None, 0
    if profile:
        strict = FAIL_UNKNOWN in plan.annotations
        program, plan.seccomp_flags = seccomp_compile.compile_profile(profile, strict=strict)
        plan.seccomp = seccomp_kernel.Filter(program)
        if profile.get("listenerMetadata") and not profile.get("listenerPath"):
            raise InvalidConfig("seccomp.listenerMetadata needs listenerPath: there is nobody to give it to")
        if plan.seccomp_flags & seccomp_kernel.FLAG_NEW_LISTENER and not profile.get("listenerPath"):
            raise InvalidConfig("seccomp uses SCMP_ACT_NOTIFY without listenerPath; name the socket of the listener")


def _device(item: dict[str, Any]) -> Device:
    kinds = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}
    permissions = item.get("fileMode")
    mode = kinds[item["type"]] | (0o666 if permissions is None else permissions & 0o7777)
    major, minor = (0, 0) if item["type"] == "p" else (item["major"], item["minor"])
    return Device(item["path"], mode, major, minor, item.get("uid") or 0, item.get("gid") or 0)


def _memory_policy(policy: dict[str, Any] | None) -> tuple[int, int] | None:
    """As set_mempolicy(2) takes it."""
    if not policy:
        return None
    mode = schema.MEMORY_MODES[policy["mode"]]
    for flag in policy.get("flags") or ():
        mode |= schema.MEMORY_FLAGS[flag]
    nodes = 0
    for number in ranges.numbers(policy.get("nodes") or "", "memoryPolicy.nodes"):
        nodes |= 1 << number
    return mode, nodes
