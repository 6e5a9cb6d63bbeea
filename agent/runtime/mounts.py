"""Mount options of the OCI runtime spec and of mount(8), parsed once into what the kernel takes."""

from __future__ import annotations

from agent.runtime.errors import InvalidConfig
from agent.sys import mountapi as api

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.sys.mount import Mount

# word -> (attributes to set, attributes to clear); with "r" before it the change covers every mount below, too
ATTRIBUTES = {
    "ro": (api.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, api.MOUNT_ATTR_RDONLY),
    "nosuid": (api.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, api.MOUNT_ATTR_NOSUID),
    "nodev": (api.MOUNT_ATTR_NODEV, 0),
    "dev": (0, api.MOUNT_ATTR_NODEV),
    "noexec": (api.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, api.MOUNT_ATTR_NOEXEC),
    "nodiratime": (api.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, api.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (api.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, api.MOUNT_ATTR_NOSYMFOLLOW),
    "noatime": (api.MOUNT_ATTR_NOATIME, api.MOUNT_ATTR_ATIME),
    "strictatime": (api.MOUNT_ATTR_STRICTATIME, api.MOUNT_ATTR_ATIME),
    "relatime": (0, api.MOUNT_ATTR_ATIME),
    "atime": (0, api.MOUNT_ATTR_ATIME),
    "norelatime": (0, api.MOUNT_ATTR_ATIME),
    "nostrictatime": (0, api.MOUNT_ATTR_ATIME),
}
PROPAGATION = {
    "private": api.MS_PRIVATE,
    "slave": api.MS_SLAVE,
    "shared": api.MS_SHARED,
    "unbindable": api.MS_UNBINDABLE,
}
IGNORED = frozenset(
    ("defaults", "remount", "silent", "loud", "iversion", "noiversion", "acl", "noacl", "noauto", "auto", "nofail")
)
UNSUPPORTED = frozenset(("copy-symlink", "dest-nofollow", "src-nofollow"))


class MountStep:
    """One mount, ready to make. `target` is relative to the container's root, without leading slash.

    kind: "bind", "cgroup" or "fs". `params`: fsconfig steps. `attr_*` for this mount, `rec_*` for it and all below.
    `propagation`: (flag, recursive) in order. `idmap`: shift ids into the container's user namespace.
    """

    __slots__ = (
        "attr_clr", "attr_set", "copy_up", "fstype", "idmap", "kind", "lowers", "params", "propagation", "rec_clr", "rec_set",
        "recursive", "source", "target",
    )  # fmt: skip

    def __init__(self, kind: str, fstype: str, source: str, target: str) -> None:
        self.kind = kind
        self.fstype = fstype.encode()
        self.source = source.encode()
        self.target = target.strip("/").encode()
        self.params: list[tuple[int, bytes, bytes | None, int]] = []
        self.lowers: list[bytes] = []
        self.attr_set = self.attr_clr = self.rec_set = self.rec_clr = 0
        self.propagation: list[tuple[int, bool]] = []
        self.recursive = False
        self.idmap = False
        self.copy_up = False

    @property
    def shared(self) -> bool:
        """Whether the container's mounts below shall reach the host."""
        return any(flag == api.MS_SHARED for flag, _ in self.propagation)


def from_oci(mount: dict[str, Any]) -> MountStep:
    """From an entry of config.json's `mounts`."""
    target = mount.get("destination")
    if not isinstance(target, str) or not target:
        raise InvalidConfig(f"mount {mount!r} has no destination; give an absolute path in the container")
    return _step(mount.get("type") or "", mount.get("source") or "", target, mount.get("options") or (), base=True)


def from_storage(mount: Mount) -> MountStep:
    """From storage's `Mount`."""
    return _step(mount.type, mount.source, mount.target, mount.options, base=False)


def _step(fstype: str, source: str, target: str, options: Any, base: bool) -> MountStep:
    bind = fstype == "bind" or "bind" in options or "rbind" in options
    if "\0" in source + target:
        raise InvalidConfig(f"mount of {target!r} contains a NUL byte")
    if not bind and not fstype:
        raise InvalidConfig(f"mount of {target!r} has no type; name a filesystem, or add the option bind")
    kind = "bind" if bind else "cgroup" if fstype in ("cgroup", "cgroup2") and base else "fs"
    step = MountStep(kind, fstype, source, target)
    for option in options:
        _option(step, option)
    if bind and not step.propagation and base:
        step.propagation = [(api.MS_PRIVATE, True)]
    if not bind and source:
        step.params.insert(0, (api.FSCONFIG_SET_STRING, b"source", step.source, 0))
    if len(step.lowers) == 1 and b":" in step.lowers[0]:  # the classic spelling: all in one option
        step.lowers = step.lowers[0].split(b":")
    return step


def _option(step: MountStep, option: str) -> None:
    if option in UNSUPPORTED:
        raise InvalidConfig(f"mount option {option!r} of {step.target.decode()!r} is not supported; leave it out")
    if option in IGNORED or option == "bind":
        return
    recursive = option.startswith("r") and option[1:] in ATTRIBUTES
    if option in ATTRIBUTES:
        to_set, to_clear = ATTRIBUTES[option]
        step.attr_set, step.attr_clr = step.attr_set & ~to_clear | to_set, step.attr_clr & ~to_set | to_clear
    elif recursive:
        to_set, to_clear = ATTRIBUTES[option[1:]]
        step.rec_set, step.rec_clr = step.rec_set & ~to_clear | to_set, step.rec_clr & ~to_set | to_clear
    elif option in PROPAGATION:
        step.propagation.append((PROPAGATION[option], False))
    elif option.startswith("r") and option[1:] in PROPAGATION:
        step.propagation.append((PROPAGATION[option[1:]], True))
    else:
        _other_option(step, option)


def _other_option(step: MountStep, option: str) -> None:
    if option in ("rbind", "ridmap"):
        step.recursive = True
        step.idmap = step.idmap or option == "ridmap"
    elif option == "idmap":
        step.idmap = True
    elif option == "tmpcopyup":
        step.copy_up = True
    elif option.startswith("lowerdir="):
        step.lowers.append(option[9:].encode())
    elif step.kind != "bind":
        key, equals, value = option.partition("=")
        if equals:
            step.params.append((api.FSCONFIG_SET_STRING, key.encode(), value.encode(), 0))
        else:
            step.params.append((api.FSCONFIG_SET_FLAG, key.encode(), None, 0))
