"""A profile's rules by system call number, for one architecture: names resolved, every value checked.

Meaning, as libseccomp and runc have it: conditions of one entry AND, entries OR; an entry with two conditions on one argument
is one entry a condition; an entry without conditions beats those with; an entry whose action is the default is void; unknown
names are ignored unless the caller is strict.
"""

from __future__ import annotations

import errno

from agent.protocol.errors import InvalidInput
from agent.runtime.seccomp import tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Condition = tuple[int, str, int, int]  # argument index, operator, value, value two
    Rule = tuple[tuple[Condition, ...], int]  # all of these -> action

KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
ALLOW = 0x7FFF0000
ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
}
OPERATORS = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ")
# Between loading a filter with a listener and handing that over, the set-up itself makes these calls: nobody would answer. It
# waits, with read or recvmsg, only once the listener has been fetched: that one is answered.
HAND_OVER = frozenset(("write", "sendmsg"))

# i386 has most socket and System V calls twice: directly, and as call number n of one entry (ipc(2), socketcall(2)).
_SOCKETCALL = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown setsockopt"
    " getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)
MULTIPLEXED = {name: ("socketcall", number) for number, name in enumerate(_SOCKETCALL.split(), 1)}
MULTIPLEXED |= {name: ("ipc", number) for number, name in enumerate(("semop", "semget", "semctl", "semtimedop"), 1)}
MULTIPLEXED |= {name: ("ipc", number) for number, name in enumerate(("msgsnd", "msgrcv", "msgget", "msgctl"), 11)}
MULTIPLEXED |= {name: ("ipc", number) for number, name in enumerate(("shmat", "shmdt", "shmget", "shmctl"), 21)}


def default_action(profile: dict[str, Any]) -> int:
    """Raises InvalidInput, also for a default of NOTIFY: the set-up itself would wait for an answer."""
    value = action(profile.get("defaultAction", ""), profile.get("defaultErrnoRet"))
    if value == ACTIONS["SCMP_ACT_NOTIFY"]:
        raise InvalidInput("seccomp defaultAction cannot be SCMP_ACT_NOTIFY; name the calls to notify in syscalls")
    return value


def action(name: Any, data: Any) -> int:
    """The filter's return value. `data`: errnoRet, which only ERRNO and TRACE carry; EPERM when absent."""
    value = ACTIONS.get(name) if isinstance(name, str) else None
    if value is None:
        raise InvalidInput(f"seccomp action {name!r} is not known; use one of {', '.join(ACTIONS)}")
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= errno.EPERM if data is None else _integer(data, 16, "errnoRet")
    elif data is not None:
        raise InvalidInput(f"seccomp action {name} carries no errno; leave errnoRet out")
    return value


def by_number(profile: dict[str, Any], default: int, machine: str, strict: bool) -> dict[int, list[Rule]]:
    """Rules in the profile's order. A call that is named without effect has an empty list: the ENOSYS border counts it."""
    numbers = tables.numbers(machine)
    rules: dict[int, list[Rule]] = {}
    for entry in entries(profile):
        value = action(entry.get("action", ""), entry.get("errnoRet"))
        alternatives = _alternatives(entry.get("args") or ())
        for name in entry["names"]:
            _check_name(name, entry, strict)
            if name in numbers:
                found = rules.setdefault(numbers[name], [])
                if value != default:
                    found.extend((conditions, value) for conditions in alternatives)
            if machine == "x86" and name in MULTIPLEXED and value != default:
                _multiplexed(rules, numbers, name, alternatives, value, default)
    return rules


def entries(profile: dict[str, Any]) -> list[dict[str, Any]]:
    """profile.syscalls, its shape checked."""
    found = profile.get("syscalls") or []
    if not isinstance(found, list):
        raise InvalidInput("seccomp.syscalls must be a list")
    for entry in found:
        names = entry.get("names") if isinstance(entry, dict) else None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise InvalidInput("every entry of seccomp.syscalls needs names, a list of system calls that is not empty")
        if not isinstance(entry.get("args") or [], list):
            raise InvalidInput(f"seccomp args of {names[0]} must be a list")
    return found


def _check_name(name: str, entry: dict[str, Any], strict: bool) -> None:
    if strict and not tables.known(name):
        raise InvalidInput(f"seccomp names the system call {name!r}, which no architecture has; correct or remove it")
    if entry.get("action") == "SCMP_ACT_NOTIFY" and name in HAND_OVER:
        raise InvalidInput(f"SCMP_ACT_NOTIFY cannot be used for the {name} syscall: handing over the listener needs it")


def _multiplexed(
    rules: dict[int, list[Rule]],
    numbers: dict[str, int],
    name: str,
    alternatives: list[tuple[Condition, ...]],
    value: int,
    default: int,
) -> None:
    """The call's second door. Its arguments lie behind a pointer, which a filter cannot follow: a rule with conditions covers
    the door whole if it forbids more than the default, and leaves it shut if it allows more."""
    entry, call = MULTIPLEXED[name]
    if all(alternatives) and not _stricter(value, default):
        return
    rules.setdefault(numbers[entry], []).append((((0, "SCMP_CMP_EQ", call, 0),), value))


def _stricter(value: int, default: int) -> bool:
    """The kernel's own order: actions compare as signed numbers, the killing ones lowest (seccomp(2))."""

    def rank(number: int) -> int:
        return -1 if number & 0xFFFF0000 == KILL_PROCESS else number & 0xFFFF0000

    return rank(value) < rank(default)


def _alternatives(args: Any) -> list[tuple[Condition, ...]]:
    conditions: list[Condition] = []
    for arg in args:
        operator = arg.get("op") if isinstance(arg, dict) else None
        index = arg.get("index") if isinstance(arg, dict) else None
        if operator not in OPERATORS or type(index) is not int or not 0 <= index <= 5:
            raise InvalidInput(f"seccomp argument test {arg!r} is not valid; index is 0..5 and op one of {', '.join(OPERATORS)}")
        value, second = (_integer(arg.get(key, 0), 64, key) for key in ("value", "valueTwo"))
        conditions.append((index, operator, value, second))
    if len({condition[0] for condition in conditions}) < len(conditions):
        return [(condition,) for condition in conditions]
    return [tuple(conditions)]


def _integer(value: Any, bits: int, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise InvalidInput(f"seccomp {what} is {value!r}; it must be a whole number of at most {bits} bits")
    return value
