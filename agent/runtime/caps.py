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
    """Five masks, and the kernel's highest number: asked here, on the host, since a container's /proc may lie."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "last", "permitted")

    def __init__(self, sets: dict[str, Any]) -> None:
        self.last = last()
        self.bounding = mask(sets.get("bounding"))
        self.effective = mask(sets.get("effective"))
        self.permitted = mask(sets.get("permitted"))
        self.inheritable = mask(sets.get("inheritable"))
        self.ambient = mask(sets.get("ambient"))


def mask(names: Any) -> int:
    """Bit mask of names; an unknown name is an error, since silence would drop a right or a fence."""
    value = 0
    for name in names or ():
        number = NUMBERS.get(name)
        if number is None:
            raise InvalidConfig(f"capability {name!r} is not known; names look like CAP_NET_ADMIN")
        value |= 1 << number
    return value


_last: int | None = None


def last() -> int:
    """The highest capability of the running kernel."""
    global _last
    if _last is None:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            _last = int(file.read())
    return _last
