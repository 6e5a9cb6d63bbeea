"""Capability names and masks (capabilities(7))."""

from __future__ import annotations

from agent.runtime.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WORDS = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
    NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
    SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM
    BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""  # in the kernel's order, from 0
NAMES = tuple("CAP_" + word for word in _WORDS.split())
NUMBERS = {name: number for number, name in enumerate(NAMES)}
SYS_ADMIN = 1 << NUMBERS["CAP_SYS_ADMIN"]


class CapabilitySets:
    """Five masks. `unknown`: names that stand for nothing, which give nothing.

    `last`: the kernel's highest number, asked here, on the host, since a container's /proc may lie.
    """

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "last", "permitted", "unknown")

    def __init__(self, sets: dict[str, Any]) -> None:
        self.last = last()
        unknown: dict[str, None] = {}
        self.bounding = _known(sets.get("bounding"), unknown)
        self.effective = _known(sets.get("effective"), unknown)
        self.permitted = _known(sets.get("permitted"), unknown)
        self.inheritable = _known(sets.get("inheritable"), unknown)
        self.ambient = _known(sets.get("ambient"), unknown)
        self.unknown = list(unknown)

    @property
    def every(self) -> int:
        return self.bounding | self.effective | self.permitted | self.inheritable | self.ambient


def _known(names: Any, unknown: dict[str, None]) -> int:
    """Bit mask of names; the spec wants a warning, not an error, for one that the kernel does not have."""
    value = 0
    for name in names or ():
        number = NUMBERS.get(name)
        if number is None:
            unknown[name] = None
        else:
            value |= 1 << number
    return value


def mask(names: Any) -> int:
    """Bit mask of names that have to be known. Raises InvalidConfig."""
    unknown: dict[str, None] = {}
    value = _known(names, unknown)
    if unknown:
        raise InvalidConfig(f"capability {next(iter(unknown))!r} is not known; names look like CAP_NET_ADMIN")
    return value


def warnings(sets: CapabilitySets, grantable: int) -> list[str]:
    """What a configuration asks for in vain. `grantable`: mask of what the runtime itself holds."""
    found = [f"capability {name} is not known and is left out" for name in sets.unknown]
    missing = sets.every & ~grantable
    found += [f"capability {name} cannot be granted: the runtime does not hold it" for name in names_of(missing)]
    return found


def names_of(value: int) -> list[str]:
    return [name for number, name in enumerate(NAMES) if value >> number & 1]


_last: int | None = None


def last() -> int:
    """The highest capability of the running kernel."""
    global _last
    if _last is None:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            _last = int(file.read())
    return _last
