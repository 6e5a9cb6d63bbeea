"""events: usage in runc's shape, out-of-memory kills, pressure."""

from __future__ import annotations

import os
import re
import select
import time

from agent.protocol.errors import InvalidInput
from agent.runtime.cli import handles, report
from agent.runtime.errors import WrongState
from agent.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log

UNLIMITED = 9223372036854771712  # what the kernel shows, and runc's callers know
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|)")
_POLL = 0.1  # s between two looks at the counter of kills


def events(options: Options, log: Log) -> int:
    """Ends with the container."""
    interval = seconds(options.text("interval", "5s"))
    directory = StateDirectory(handles.root(options), options.id)
    if not directory.alive():
        raise WrongState(f"container with id {options.id} is not running")
    cgroup = directory.cgroup()
    if options.flag("stats"):
        _tell(options.id, "stats", usage(cgroup.stats()))
        return 0
    pidfd = os.pidfd_open(directory.state()["pid"])
    triggers = cgroup.pressure_triggers()
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    for fd in triggers:
        poller.register(fd, select.POLLPRI)
    killed, due = cgroup.oom_count(), 0.0
    while True:
        now = time.monotonic()
        if now >= due:
            _tell(options.id, "stats", usage(cgroup.stats()))
            due = now + interval
        ready = dict(poller.poll(min(_POLL, interval) * 1000))
        count = cgroup.oom_count()
        for _ in range(count - killed):
            _tell(options.id, "oom", None)
        killed = max(count, killed)
        if pidfd in ready:
            return 0
        for fd, what in ready.items():
            if what & select.POLLERR:
                poller.unregister(fd)  # the cgroup is gone, and with it the container
            else:
                resource = triggers[fd]
                _tell(options.id, "pressure", {"resource": resource, **cgroup.stats()["pressure"].get(resource, {})})


def _tell(id: str, kind: str, data: Any) -> None:
    report.show({"type": kind, "id": id, **({} if data is None else {"data": data})}, None)


def seconds(text: str) -> float:
    """Of Go's durations: 5s, 100ms, 1m30s; a number without unit is seconds. Raises InvalidInput."""
    parts = _PART.findall(text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not parts or "".join(map("".join, parts)) != text or total <= 0:
        raise InvalidInput(f'invalid duration "{text}"; use for example 5s, 100ms or 1m30s, above zero')
    return total


def usage(stats: dict[str, Any]) -> dict[str, Any]:
    """cgroup.stats() in the shape of runc's events."""
    cpu, memory, pids, psi = stats["cpu"], stats["memory"], stats["pids"], stats["pressure"]
    return {
        "cpu": {
            **_psi(psi, "cpu"),
            "usage": {"total": cpu["usage"], "kernel": cpu["system"], "user": cpu["user"]},
            "throttling": {
                "periods": cpu["periods"],
                "throttledPeriods": cpu["throttled_periods"],
                "throttledTime": cpu["throttled"],
            },
        },
        "memory": {**(_memory(memory) if memory else {}), **_psi(psi, "memory")},
        "pids": {"current": pids.get("current", 0), "limit": pids.get("limit") or 0},
        "blkio": {**_block(stats["io"]), **_psi(psi, "io")},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _psi(pressure: dict[str, Any], resource: str) -> dict[str, Any]:
    """As runc has it since 1.2."""
    return {"psi": pressure[resource]} if resource in pressure else {}


def _memory(memory: dict[str, Any]) -> dict[str, Any]:
    limit = UNLIMITED if memory["limit"] is None else memory["limit"]
    return {
        "cache": memory["stat"].get("total_cache", memory["stat"].get("file", 0)),
        "usage": {"limit": limit, "usage": memory["usage"], "max": memory["peak"], "failcnt": memory["oom_kills"]},
        "swap": {"usage": memory["swap"]},
        "raw": memory["stat"],
    }


def _block(devices: list[dict[str, int]]) -> dict[str, Any]:
    lists: dict[str, list[dict[str, Any]]] = {"ioServiceBytesRecursive": [], "ioServicedRecursive": []}
    for device in devices:
        for key, words in (
            ("ioServiceBytesRecursive", (("Read", "read_bytes"), ("Write", "write_bytes"))),
            ("ioServicedRecursive", (("Read", "reads"), ("Write", "writes"))),
        ):
            lists[key] += [
                {"major": device["major"], "minor": device["minor"], "op": op, "value": device[name]} for op, name in words
            ]
    return {key: value for key, value in lists.items() if value}
