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
# words that mount(8) keeps to itself, or that stand for what the kernel does anyway
_USERSPACE = "noauto auto nofail _netdev user nouser users nousers group nogroup owner noowner"
_NO_EFFECT = "defaults silent loud iversion noiversion acl noacl bind"
IGNORED = frozenset((*_USERSPACE.split(), *_NO_EFFECT.split()))
# flags of a filesystem as a whole: for a new one the kernel's own parser takes them, a bind mount cannot change them
SUPERBLOCK = ("sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand")
# word -> field of MountStep
SWITCHES = {
    "rbind": "recursive",
    "remount": "remount",
    "idmap": "idmap",
    "tmpcopyup": "copy_up",
    "copy-symlink": "copy_link",
    "src-nofollow": "keep_source_link",
    "dest-nofollow": "keep_target_link",
}


def known_options() -> list[str]:
    """Every word that is not left to filesystems, as `features` lists them."""
    recursive = ["r" + word for word in (*ATTRIBUTES, *PROPAGATION)]
    return sorted({*ATTRIBUTES, *PROPAGATION, *recursive, *IGNORED, *SUPERBLOCK, *SWITCHES, "ridmap"})


class MountStep:
    """One mount, ready to make. `target` is relative to the container's root, without leading slash.

    kind: "bind", "cgroup" or "fs". `params`: fsconfig steps. `attr_*` for this mount, `rec_*` for it and all below.
    `propagation`: (flag, recursive) in order. `idmap`: shift ids, by `uid_map` and `gid_map` (lines of the kernel's form) or,
    when those are empty, into the container's user namespace; the whole tree with `idmap_all`. `remount`: change what is there.
    `copy_link`: a source that is a symbolic link is made again. `keep_*_link`: such a link is itself what is mounted, or on.
    """

    __slots__ = (
        "attr_clr", "attr_set", "copy_link", "copy_up", "fstype", "gid_map", "idmap", "idmap_all", "keep_source_link",
        "keep_target_link", "kind", "lowers", "params", "propagation", "rec_clr", "rec_set", "recursive", "remount", "source",
        "target", "uid_map",
    )  # fmt: skip

    def __init__(self, kind: str, fstype: str, source: str, target: str) -> None:
        self.kind = kind
        self.fstype = fstype.encode(errors="surrogateescape")
        self.source = source.encode(errors="surrogateescape")
        self.target = target.strip("/").encode(errors="surrogateescape")
        self.params: list[tuple[int, bytes, bytes | None, int]] = []
        self.lowers: list[bytes] = []
        self.attr_set = self.attr_clr = self.rec_set = self.rec_clr = 0
        self.propagation: list[tuple[int, bool]] = []
        self.recursive = self.remount = self.copy_up = self.copy_link = self.keep_source_link = self.keep_target_link = False
        self.idmap = self.idmap_all = False
        self.uid_map = self.gid_map = ""

    @property
    def shared(self) -> bool:
        """Whether the container's mounts below shall reach the host."""
        return any(flag == api.MS_SHARED for flag, _ in self.propagation)


def from_oci(mount: dict[str, Any], bundle: str = "") -> MountStep:
    """From an entry of config.json's `mounts`. The source of a bind mount may be relative to the bundle."""
    target = mount.get("destination")
    if not isinstance(target, str) or not target:
        raise InvalidConfig(f"mount {mount!r} has no destination; give an absolute path in the container")
    source, options = mount.get("source") or "", mount.get("options") or ()
    if bundle and source and not source.startswith("/") and ("bind" in options or "rbind" in options):
        source = f"{bundle}/{source}"
    step = _step(mount.get("type") or "", source, target, options, base=True)
    uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
    if bool(uids) is not bool(gids):
        raise InvalidConfig(f"mount of {target!r} has uidMappings or gidMappings; give both")
    if uids:
        step.idmap = True
        step.uid_map, step.gid_map = id_map(uids), id_map(gids)
    return step


def id_map(entries: Any) -> str:
    """LinuxIDMapping objects as lines of uid_map (user_namespaces(7))."""
    return "".join(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in entries or ())


def from_storage(mount: Mount) -> MountStep:
    """From storage's `Mount`."""
    return _step(mount.type, mount.source, mount.target, mount.options, base=False)


def _step(fstype: str, source: str, target: str, options: Any, base: bool) -> MountStep:
    bind = fstype == "bind" or "bind" in options or "rbind" in options
    if "\0" in source + target:
        raise InvalidConfig(f"mount of {target!r} contains a NUL byte")
    if not bind and not fstype and "remount" not in options:
        raise InvalidConfig(f"mount of {target!r} has no type; name a filesystem, or add the option bind")
    kind = "bind" if bind else "cgroup" if fstype in ("cgroup", "cgroup2") and base else "fs"
    step = MountStep(kind, fstype, source, target)
    for option in options:
        _option(step, option)
    if bind and not step.propagation and base and not step.remount:
        step.propagation = [(api.MS_PRIVATE, True)]
    if not bind and source and not step.remount:
        step.params.insert(0, (api.FSCONFIG_SET_STRING, b"source", step.source, 0))
    if base and kind == "fs" and step.attr_set & api.MOUNT_ATTR_RDONLY and not _writable_below(step):
        # the filesystem itself, too: a disk is then not written to, not even its journal
        step.params.append((api.FSCONFIG_SET_FLAG, b"ro", None, 0))
    if len(step.lowers) == 1 and b":" in step.lowers[0]:  # the classic spelling: all in one option
        step.lowers = step.lowers[0].split(b":")
    return step


def _writable_below(step: MountStep) -> bool:
    """Whether only the mount is read-only: what we fill first, what is there already, and an overlay, which has no disk."""
    return step.copy_up or step.target == b"dev" or step.remount or bool(step.lowers)


def _option(step: MountStep, option: str) -> None:
    if option in IGNORED or option[:2] in ("x-", "X-") or option.startswith("comment="):
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
    elif option in SWITCHES:
        setattr(step, SWITCHES[option], True)
    elif option == "ridmap":
        step.idmap = step.idmap_all = True
    else:
        _filesystem_option(step, option)


def _filesystem_option(step: MountStep, option: str) -> None:
    key, equals, value = (part.encode(errors="surrogateescape") for part in option.partition("="))
    if key == b"lowerdir" and equals:
        step.lowers.append(value)
    elif step.kind == "bind":
        pass  # mount(2) ignores them there
    elif equals:
        step.params.append((api.FSCONFIG_SET_STRING, key, value, 0))
    else:
        step.params.append((api.FSCONFIG_SET_FLAG, key, None, 0))
