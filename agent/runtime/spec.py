"""The OCI runtime spec 1.3: what a config.json may say. Unknown keys are ignored, invalid values refused.

Types, ranges and words are in `schema`; here is what keys mean to each other.
"""

from __future__ import annotations

from agent.runtime import schema, shape
from agent.runtime.defaults import default_config
from agent.runtime.errors import InvalidConfig
from agent.runtime.schema import HOOK_POINTS, NAMESPACES, RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["HOOK_POINTS", "NAMESPACES", "OLDEST", "RLIMITS", "VERSION", "default_config", "validate", "validate_process"]

VERSION = "1.3.0"  # the newest that we know; any 1.x is understood, since minor versions only add
OLDEST = "1.0.0"
_IPC_SYSCTLS = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
IPC_SYSCTLS = frozenset("kernel." + word for word in _IPC_SYSCTLS.split())
_LONGEST_NAME = 64  # __NEW_UTS_LEN
_LONGEST_LINK = 15  # IFNAMSIZ without the NUL
# memory policies that take no nodes, and those that need some (set_mempolicy(2))
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
_WITH_NODES = ("MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED_MANY")


def validate(config: dict[str, Any]) -> None:
    """Raises InvalidConfig naming the key and what to do."""
    if config is None:
        raise InvalidConfig("the configuration is null; it must be an object")
    shape.check(config, schema.CONFIG, "")
    _version(config["ociVersion"])
    if config.get("process"):
        _process(config["process"])
    linux = config["linux"]
    kinds = _namespaces(linux)
    _identity(config, linux, kinds)
    _sysctls(linux.get("sysctl") or {}, kinds)
    _paths(linux)
    _net_devices(linux.get("netDevices") or {}, kinds)
    _memory_policy(linux.get("memoryPolicy"))
    _hooks(config.get("hooks") or {})
    _limits(linux.get("resources") or {})
    if "" in (config.get("annotations") or {}):
        raise InvalidConfig("annotations has an empty key; name it, in reverse domain notation")


def validate_process(process: dict[str, Any]) -> None:
    """The `process` object, also that of an exec."""
    shape.check(process, schema.PROCESS, "process")
    _process(process)


def _version(version: str) -> None:
    """SemVer 2.0.0: three numbers, and maybe -word or +word after them."""
    core, plus, build = version.partition("+")
    core, minus, before = core.partition("-")
    numbers = core.split(".")
    plain = all(part.isascii() and part.isdigit() and (part == "0" or part[0] != "0") for part in numbers)
    if len(numbers) != 3 or not plain or bool(plus) > bool(build) or bool(minus) > bool(before):
        raise InvalidConfig(f"ociVersion is {version!r}; it must be a version such as {VERSION}")
    if numbers[0] != "1":
        raise InvalidConfig(f"ociVersion is {version!r}; this runtime understands 1.x")


def _process(process: dict[str, Any]) -> None:
    if not process["args"]:
        raise InvalidConfig("process.args must not be empty; it names the program")
    if not process["cwd"].startswith("/"):
        raise InvalidConfig(f"process.cwd is {process['cwd']!r}; it must be an absolute path")
    seen = set()
    for limit in process.get("rlimits") or ():
        name = limit["type"]
        if name in seen:
            raise InvalidConfig(f"rlimit {name} is given twice; keep one")
        if limit["soft"] > limit["hard"]:
            raise InvalidConfig(f"rlimit {name} has a soft limit above its hard one")
        seen.add(name)


def _namespaces(linux: dict[str, Any]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for entry in linux.get("namespaces") or ():
        kind = entry["type"]
        if kind in kinds:
            raise InvalidConfig(f"namespace {kind} is given twice; keep one")
        kinds[kind] = entry.get("path") or ""
        if kinds[kind] and not kinds[kind].startswith("/"):
            raise InvalidConfig(f"namespace path {kinds[kind]!r} must be absolute")
    return kinds


def _identity(config: dict[str, Any], linux: dict[str, Any], kinds: dict[str, str]) -> None:
    new_user = kinds.get("user") == ""
    if (linux.get("uidMappings") or linux.get("gidMappings")) and not new_user:
        raise InvalidConfig("uidMappings and gidMappings need a new user namespace in linux.namespaces")
    if new_user and not (linux.get("uidMappings") and linux.get("gidMappings")):
        raise InvalidConfig("a new user namespace needs uidMappings and gidMappings")
    if "user" in kinds and kinds.get("mount") != "":
        raise InvalidConfig("a user namespace needs a new mount namespace in linux.namespaces: its root may not mount elsewhere")
    for key in ("hostname", "domainname"):
        if config.get(key) and "uts" not in kinds:
            raise InvalidConfig(f"{key} needs a uts namespace in linux.namespaces: it would rename the host")
        if len((config.get(key) or "").encode(errors="surrogateescape")) > _LONGEST_NAME:
            raise InvalidConfig(f"{key} is longer than {_LONGEST_NAME} bytes")
    _clocks(linux.get("timeOffsets") or {}, kinds)
    if (linux.get("personality") or {}).get("flags"):
        raise InvalidConfig("personality.flags must be empty: the runtime spec knows none")


def _clocks(offsets: dict[str, Any], kinds: dict[str, str]) -> None:
    if offsets and kinds.get("time") != "":
        raise InvalidConfig("timeOffsets need a new time namespace in linux.namespaces")
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            raise InvalidConfig(f"timeOffsets names the clock {clock!r}; only monotonic and boottime have offsets")


def _sysctls(sysctls: dict[str, str], kinds: dict[str, str]) -> None:
    """Only those that a namespace of the container fences: any other would change the host."""
    for name in sysctls:
        path = sysctl_path(name)
        if not path or "" in path.split("/") or ".." in path.split("/"):
            raise InvalidConfig(f"sysctl {name!r} is not a name")
        dotted = path.replace("/", ".")
        if path.startswith("net/"):
            needed = "network"
        elif dotted in IPC_SYSCTLS or path.startswith("fs/mqueue/"):
            needed = "ipc"
        elif dotted in ("kernel.domainname", "kernel.hostname"):
            needed = "uts"
        else:
            raise InvalidConfig(f"sysctl {name} is not kept apart by any namespace; set it on the host")
        if needed not in kinds:
            raise InvalidConfig(f"sysctl {name} needs a {needed} namespace: it would change the host")


def sysctl_path(name: str) -> str:
    """Below /proc/sys. The first separator decides: after a slash, dots belong to names, as in net/ipv4/conf/eth0.5/forwarding
    (sysctl(8))."""
    slash, dot = name.find("/"), name.find(".")
    if slash >= 0 and (dot < 0 or slash < dot):
        return name
    return name.replace(".", "\0").replace("/", ".").replace("\0", "/")


def _paths(linux: dict[str, Any]) -> None:
    for key in ("maskedPaths", "readonlyPaths"):
        for path in linux.get(key) or ():
            if not path.startswith("/"):
                raise InvalidConfig(f"{key} holds {path!r}; give absolute paths in the container")
    for device in linux.get("devices") or ():
        if not device["path"].startswith("/"):
            raise InvalidConfig(f"device path {device['path']!r} must be absolute")
        if device["type"] != "p" and (device.get("major") is None or device.get("minor") is None):
            raise InvalidConfig(f"device {device['path']} needs major and minor")


def _net_devices(wanted: dict[str, Any], kinds: dict[str, str]) -> None:
    if wanted and "network" not in kinds:
        raise InvalidConfig("netDevices need a network namespace in linux.namespaces to move the devices to")
    names = [(entry or {}).get("name") or name for name, entry in wanted.items()]
    for name in (*wanted, *names):
        if not 0 < len(name.encode(errors="surrogateescape")) <= _LONGEST_LINK or "/" in name or name in (".", ".."):
            raise InvalidConfig(f"netDevices: {name!r} is not a name of a network device")
        if any(letter.isspace() or letter == ":" for letter in name):
            raise InvalidConfig(f"netDevices: {name!r} holds a blank or a colon")
    fixed = [name for name in names if "%d" not in name]
    if len(set(fixed)) < len(fixed):
        raise InvalidConfig("netDevices gives two devices the same name in the container")


def _memory_policy(policy: dict[str, Any] | None) -> None:
    if not policy:
        return
    nodes, mode = (policy.get("nodes") or "").strip(), policy["mode"]
    if mode in _WITHOUT_NODES and nodes:
        raise InvalidConfig(f"memoryPolicy {mode} takes no nodes")
    if mode in _WITH_NODES and not nodes:
        raise InvalidConfig(f"memoryPolicy {mode} needs nodes")


def _hooks(hooks: dict[str, Any]) -> None:
    for point in HOOK_POINTS:
        for hook in hooks.get(point) or ():
            if not hook["path"].startswith("/"):
                raise InvalidConfig(f"hook {point} has path {hook['path']!r}; it must be absolute")
            if hook.get("timeout") is not None and hook["timeout"] <= 0:
                raise InvalidConfig(f"hook {point} has a timeout that is not above zero")


def _limits(resources: dict[str, Any]) -> None:
    """What may not be left out of an entry that is there."""
    for device, limits in (resources.get("rdma") or {}).items():
        if limits.get("hcaHandles") is None and limits.get("hcaObjects") is None:
            raise InvalidConfig(f"resources.rdma.{device} limits nothing; give hcaHandles, hcaObjects or both")
    for item in (resources.get("blockIO") or {}).get("weightDevice") or ():
        if item.get("weight") is None and item.get("leafWeight") is None:
            where = f"{item['major']}:{item['minor']}"
            raise InvalidConfig(f"blockIO.weightDevice of {where} weighs nothing; give weight, leafWeight or both")
