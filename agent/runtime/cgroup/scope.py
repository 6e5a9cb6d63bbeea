"""A container's cgroup as a scope of systemd: `cgroupsPath` is "slice:prefix:name" (runc docs/systemd.md, systemd.scope(5)).

A scope needs a process to begin with and ends when its last one does. The container's first process shall be born inside
(CLONE_INTO_CGROUP), so a placeholder keeps the scope until then.
"""

from __future__ import annotations

import os
import time

from agent.protocol.errors import Unavailable
from agent.runtime.cgroup import properties
from agent.runtime.dbus import Connection, DBusError
from agent.runtime.errors import CgroupRefused, InvalidConfig
from agent.runtime.privilege import privileged
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from agent.runtime.dbus import Signal
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor

# systemd itself, which answers root without a message bus; else the bus
SOCKETS = (("/run/systemd/private", False), ("/run/dbus/system_bus_socket", True))
PROPERTIES = "org.freedesktop.DBus.Properties"
BUS_NAME, OBJECT, MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
JOB_SECONDS = 30.0
DEFAULT_PREFIX = "wharf"


class Scope:
    """`unit` is the scope's name, `path` where systemd puts it below each hierarchy. No call is made before `start`, but for an
    ordinary user: his own systemd is asked where its cgroup is."""

    __slots__ = ("_placeholder", "path", "slice", "unit")

    def __init__(self, text: str) -> None:
        parts = text.split(":")
        if len(parts) != 3:
            raise InvalidConfig(
                f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{text}" instead'
            )
        parent, prefix, name = parts
        ordinary = not privileged()
        self.slice = parent or ("user.slice" if ordinary else "system.slice")
        self.unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        if not name or "/" in self.unit:
            raise InvalidConfig(f"cgroupsPath {text!r} names no unit; the last part must be a name without a slash")
        self.path = f"{expand(self.slice)}/{self.unit}".removeprefix("/-.slice")
        if ordinary:
            with _Manager() as manager:
                self.path = manager.cgroup() + self.path
        self._placeholder: tuple[int, int] | None = None

    def start(self, resources: dict[str, Any], v1: bool) -> None:
        """Make the unit and wait until it runs. CgroupRefused says what systemd refused."""
        self._placeholder = _placeholder()
        wanted: list[tuple[str, tuple[str, Any]]] = [
            ("Description", ("s", f"container {self.unit.removesuffix('.scope')}")),
            (
                "Wants" if self.unit.endswith(".slice") else "Slice",
                ("as", [self.slice]) if self.unit.endswith(".slice") else ("s", self.slice),
            ),
            ("DefaultDependencies", ("b", False)),
        ]
        if not self.unit.endswith(".slice"):
            wanted += [("Delegate", ("b", True)), ("PIDs", ("au", [self._placeholder[0]]))]
        wanted += properties.accounting(v1) + properties.limits(resources, v1)
        try:
            with _Manager() as manager:
                manager.start(self.unit, wanted)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """The container's own process is inside, or nothing came of it: the placeholder goes."""
        if self._placeholder is not None:
            _, pidfd = self._placeholder
            self._placeholder = None
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)

    def update(self, resources: dict[str, Any], v1: bool) -> None:
        """Tell systemd, which else would write the old limits again at its next reload."""
        wanted = properties.limits(resources, v1)
        if wanted:
            with _Manager() as manager:
                manager.set_properties(self.unit, wanted)

    def stop(self) -> None:
        """Ask for the end of the unit, without waiting; no error if it ended before."""
        self.release()
        with _Manager() as manager:
            manager.stop(self.unit)


def expand(slice_name: str) -> str:
    """The directory of a slice: "a-b.slice" -> "/a.slice/a-b.slice" (systemd.slice(5))."""
    name, suffix = slice_name.removesuffix(".slice"), slice_name[-6:]
    if suffix != ".slice" or "/" in name or not name or "--" in name:
        raise InvalidConfig(f"invalid slice name: {slice_name}")
    if name == "-":
        return "/-.slice"
    if name.startswith("-") or name.endswith("-"):
        raise InvalidConfig(f"invalid slice name: {slice_name}")
    parts = name.split("-")
    return "".join(f"/{'-'.join(parts[:count])}.slice" for count in range(1, len(parts) + 1))


def _placeholder() -> tuple[int, int]:
    pid, pidfd = process.clone3(0)
    if pid == 0:
        try:
            process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
            process.reset_signals()
            process.close_between(3, 0xFFFFFFFF)
            while True:
                signal.pause()
        finally:
            os._exit(1)
    return pid, pidfd


class _Manager:
    """systemd's manager object."""

    def __init__(self) -> None:
        self._connection, self._bus = _connect()

    def __enter__(self) -> _Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _call(self, member: str, signature: str = "", *values: Any) -> list[Any]:
        try:
            return self._connection.call(BUS_NAME, OBJECT, MANAGER, member, signature, *values)
        except TimeoutError as error:
            raise Unavailable(f"systemd does not answer {member}: {error}") from error

    def cgroup(self) -> str:
        """The manager's own, without a slash at the end: below it lies every unit's."""
        found = self._connection.call(BUS_NAME, OBJECT, PROPERTIES, "Get", "ss", MANAGER, "ControlGroup")
        return str(found[0][1]).rstrip("/")

    def start(self, unit: str, wanted: list[tuple[str, tuple[str, Any]]]) -> None:
        self._listen()
        deadline = time.monotonic() + JOB_SECONDS
        for attempt in (1, 2):
            try:
                job = self._call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", wanted, [])[0]
                break
            except DBusError as error:
                # a unit of that name that failed is kept until somebody resets it
                if attempt == 2 or not error.name.endswith(".UnitExists"):
                    raise CgroupRefused(f"systemd refuses to start {unit}: {error.text}") from error
                self.reset(unit)
        self._wait(job, unit, deadline)

    def _listen(self) -> None:
        if self._bus:
            rule = f"type='signal',interface='{MANAGER}',member='JobRemoved',path='{OBJECT}'"
            self._connection.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", rule)
        self._call("Subscribe")

    def _wait(self, job: str, unit: str, deadline: float) -> None:
        def ours(signal: Signal) -> bool:
            return signal.member == "JobRemoved" and len(signal.values) > 3 and signal.values[1] == job

        try:
            result = self._connection.wait_signal(ours, deadline).values[3]
        except TimeoutError:
            self.reset(unit)
            raise Unavailable(f"systemd did not start {unit} within {JOB_SECONDS:.0f} s; try again") from None
        if result != "done":
            self.reset(unit)
            raise CgroupRefused(f"error creating systemd unit `{unit}`: got `{result}`")

    def set_properties(self, unit: str, wanted: list[tuple[str, tuple[str, Any]]]) -> None:
        try:
            self._call("SetUnitProperties", "sba(sv)", unit, True, wanted)
        except DBusError as error:
            raise CgroupRefused(f"systemd refuses the limits of {unit}: {error.text}") from error

    def stop(self, unit: str) -> None:
        try:
            self._call("StopUnit", "ss", unit, "replace")
        except DBusError as error:
            if not error.name.endswith(".NoSuchUnit"):
                raise CgroupRefused(f"systemd refuses to stop {unit}: {error.text}") from error
        self.reset(unit)

    def reset(self, unit: str) -> None:
        try:
            self._call("ResetFailedUnit", "s", unit)
        except DBusError:
            pass  # it had not failed


def _users_sockets() -> tuple[tuple[str, bool], ...]:
    """Of the systemd that a user's session has (systemd.unit(5), user@.service)."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    bus = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "").removeprefix("unix:path=").partition(",")[0]
    found = [(f"{runtime}/systemd/private", False), (f"{runtime}/bus", True)] if runtime.startswith("/") else []
    return (*found, *([(bus, True)] if bus.startswith("/") else []))


def _connect() -> tuple[Connection, bool]:
    ordinary = not privileged()
    for path, bus in _users_sockets() if ordinary else SOCKETS:
        try:
            return Connection(path, bus=bus), bus
        except (FileNotFoundError, ConnectionRefusedError, PermissionError):
            continue
    if ordinary:
        raise CgroupRefused(
            "no systemd of this user is running, cannot use systemd cgroups manager; log in with a session that has one, or leave"
            " out --systemd-cgroup"
        )
    raise CgroupRefused(
        "systemd is not running as init on this host, cannot use systemd cgroups manager;"
        " leave out --systemd-cgroup and give cgroupsPath as an absolute path"
    )
