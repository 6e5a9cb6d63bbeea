"""Landlock around a container: a fence of its own kind, which holds where a mount, a filter or a namespace is passed.

It is asked for by an annotation, which `default_config` sets, and enforced on init after pivot_root, last before the seccomp
filter. Only rights that no ordinary program uses are handled, so that opening, writing and renaming stay as they are:

- no mount, umount, remount or pivot_root, in no user namespace either (that comes with any handled file right)
- no device nodes, unless CAP_MKNOD is given; no ioctl on devices outside /dev (ABI 5)
- no tracing of processes outside, nor reading their memory and descriptors: an exec's, too, which init could otherwise
  attack while it starts (CVE-2016-9962). An exec itself is not locked, or an operator could not look at what he debugs.
- where the network is the host's: no connection to its abstract sockets (CVE-2020-15257); where the pid namespace is the host's:
  no signals to its processes (ABI 6)

Kernels before ABI 2 cannot allow renames between directories: there the container goes without.
"""

from __future__ import annotations

from agent.runtime.errors import InvalidConfig
from agent.sys import landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANNOTATION = "org.wharfinger.landlock"
OLDEST = 2


class Lock:
    """`devices`: nodes may be made. `scoped`: LANDLOCK_SCOPE bits."""

    __slots__ = ("devices", "scoped")

    def __init__(self, devices: bool, scoped: int) -> None:
        self.devices, self.scoped = devices, scoped


def fits(capabilities: Any) -> bool:
    """Whether a container with these bounding capabilities can do with it: who may mount or trace is meant to."""
    return not {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"} & set(capabilities)


def of(config: dict[str, Any]) -> Lock | None:
    """What a configuration asks for. Raises InvalidConfig."""
    wish = (config.get("annotations") or {}).get(ANNOTATION, "off")
    if wish not in ("on", "off"):
        raise InvalidConfig(f"annotation {ANNOTATION} is {wish!r}; it must be on or off")
    if wish == "off":
        return None
    kinds = {entry["type"] for entry in config["linux"].get("namespaces") or ()}
    scoped = 0 if "network" in kinds else landlock.SCOPE_ABSTRACT_UNIX_SOCKET
    scoped |= 0 if "pid" in kinds else landlock.SCOPE_SIGNAL
    bounding = ((config.get("process") or {}).get("capabilities") or {}).get("bounding") or ()
    return Lock("CAP_MKNOD" in bounding, scoped)


def prepare(lock: Lock | None) -> int:
    """A ruleset for the root that the caller has entered, to be given to `landlock.enforce`; -1 when there is none to have."""
    version = landlock.abi() if lock is not None else 0
    if lock is None or version < OLDEST:
        return -1
    everywhere = landlock.REFER
    handled = everywhere | (0 if lock.devices else landlock.MAKE_CHAR | landlock.MAKE_BLOCK)
    rules = [(b"/", everywhere)]
    if version >= 5:
        handled |= landlock.IOCTL_DEV
        rules.append((b"/dev", landlock.IOCTL_DEV))
    return landlock.ruleset(rules, handled, lock.scoped if version >= 6 else 0)
