"""The OCI runtime spec 1.2: what a config.json may say. Unknown keys are ignored, invalid values refused."""

from __future__ import annotations

from agent.runtime.defaults import default_config
from agent.runtime.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["NAMESPACES", "RLIMITS", "default_config", "validate"]

NAMESPACES = ("mount", "pid", "network", "uts", "ipc", "cgroup", "user", "time")
PROPAGATIONS = ("", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable")
_RLIMITS = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"  # from 0
RLIMITS = {"RLIMIT_" + word: number for number, word in enumerate(_RLIMITS.split())}
_IPC_SYSCTLS = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced"
IPC_SYSCTLS = frozenset("kernel." + word for word in _IPC_SYSCTLS.split())
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def validate(config: dict[str, Any]) -> None:
    """Raises InvalidConfig naming the key and what to do."""
    version = config.get("ociVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise InvalidConfig(f"ociVersion is {version!r}; this runtime understands 1.x")
    if not isinstance(config.get("root"), dict) or not isinstance(config["root"].get("path"), str):
        raise InvalidConfig("root.path is missing; name the directory of the root filesystem")
    if not isinstance(config.get("process"), dict):
        raise InvalidConfig("process is missing; it says what to run")
    validate_process(config["process"])
    linux = config.get("linux")
    if not isinstance(linux, dict):
        raise InvalidConfig("linux is missing; it names at least the mount namespace")
    kinds = _namespaces(linux)
    _identity(config, linux, kinds)
    _sysctls(linux.get("sysctl") or {}, kinds)
    _hooks(config.get("hooks") or {})


def validate_process(process: dict[str, Any]) -> None:
    """The `process` object, also that of an exec."""
    args = process.get("args")
    if not isinstance(args, list) or not args or not all(isinstance(arg, str) for arg in args):
        raise InvalidConfig("process.args must be a list of strings and must not be empty")
    cwd = process.get("cwd")
    if not isinstance(cwd, str) or not cwd.startswith("/"):
        raise InvalidConfig(f"process.cwd is {cwd!r}; it must be an absolute path")
    for text in [*args, cwd, *(process.get("env") or ())]:
        if not isinstance(text, str) or "\0" in text:
            raise InvalidConfig("process.args, cwd and env must be strings without NUL bytes")
    seen = set()
    for limit in process.get("rlimits") or ():
        name = limit.get("type")
        if name not in RLIMITS:
            raise InvalidConfig(f"rlimit {name!r} is not known; use one of {', '.join(RLIMITS)}")
        if name in seen:
            raise InvalidConfig(f"rlimit {name} is given twice; keep one")
        if limit["soft"] > limit["hard"]:
            raise InvalidConfig(f"rlimit {name} has a soft limit above its hard one")
        seen.add(name)
    if process.get("apparmorProfile") or process.get("selinuxLabel"):
        raise InvalidConfig(
            "apparmorProfile and selinuxLabel need AppArmor or SELinux, which this node does not run; leave them out"
        )


def _namespaces(linux: dict[str, Any]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for entry in linux.get("namespaces") or ():
        kind = entry.get("type")
        if kind not in NAMESPACES:
            raise InvalidConfig(f"namespace type {kind!r} is not known; use one of {', '.join(NAMESPACES)}")
        if kind in kinds:
            raise InvalidConfig(f"namespace {kind} is given twice; keep one")
        kinds[kind] = entry.get("path") or ""
        if kinds[kind] and not kinds[kind].startswith("/"):
            raise InvalidConfig(f"namespace path {kinds[kind]!r} must be absolute")
    if "mount" not in kinds:
        raise InvalidConfig("linux.namespaces must contain mount: a container without it would mount on the host")
    if linux.get("rootfsPropagation", "") not in PROPAGATIONS:
        raise InvalidConfig(f"rootfsPropagation {linux['rootfsPropagation']!r} is not known")
    return kinds


def _identity(config: dict[str, Any], linux: dict[str, Any], kinds: dict[str, str]) -> None:
    new_user = kinds.get("user") == ""
    if (linux.get("uidMappings") or linux.get("gidMappings")) and not new_user:
        raise InvalidConfig("uidMappings and gidMappings need a new user namespace in linux.namespaces")
    if new_user and not (linux.get("uidMappings") and linux.get("gidMappings")):
        raise InvalidConfig("a new user namespace needs uidMappings and gidMappings")
    for key in ("hostname", "domainname"):
        if config.get(key) and "uts" not in kinds:
            raise InvalidConfig(f"{key} needs a uts namespace in linux.namespaces: it would rename the host")
        if len(str(config.get(key) or "")) > 64:
            raise InvalidConfig(f"{key} is longer than 64 characters")
    if linux.get("timeOffsets") and kinds.get("time") != "":
        raise InvalidConfig("timeOffsets need a new time namespace in linux.namespaces")
    if linux.get("intelRdt"):
        raise InvalidConfig("intelRdt needs resctrl, which is not supported; leave it out")


def _sysctls(sysctls: dict[str, str], kinds: dict[str, str]) -> None:
    """Only those that a namespace of the container fences: any other would change the host."""
    for name in sysctls:
        dotted = name.replace("/", ".")
        if ".." in dotted:
            raise InvalidConfig(f"sysctl {name!r} is not a name")
        if dotted.startswith("net."):
            needed = "network"
        elif dotted in IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            needed = "ipc"
        elif dotted in ("kernel.domainname", "kernel.hostname"):
            needed = "uts"
        else:
            raise InvalidConfig(f"sysctl {name} is not kept apart by any namespace; set it on the host")
        if needed not in kinds:
            raise InvalidConfig(f"sysctl {name} needs a {needed} namespace: it would change the host")


def _hooks(hooks: dict[str, Any]) -> None:
    for point in HOOKS:
        for hook in hooks.get(point) or ():
            if not str(hook.get("path", "")).startswith("/"):
                raise InvalidConfig(f"hook {point} has path {hook.get('path')!r}; it must be absolute")
            if hook.get("timeout") is not None and hook["timeout"] <= 0:
                raise InvalidConfig(f"hook {point} has a timeout that is not above zero")
