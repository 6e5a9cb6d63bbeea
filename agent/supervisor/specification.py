"""What a container was created from: config.json on disk; in memory only what is asked often.

An OCI configuration with its seccomp profile is 40 kB of objects: too much to keep for each of hundreds of containers.
"""

from __future__ import annotations

import os

from agent.protocol.logoptions import LogSettings
from agent.supervisor import durable, health, restart
from agent.supervisor.refusals import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


SHARED, SHIM = "shared", "shim"  # the process's parent: the supervisor, or a shim of its own
ISOLATIONS = (SHARED, SHIM)
LONGEST_LEASE = 86400.0  # s


class Specification:
    """config.json: {config (OCI), rootfs [[type, source, target, [option…]]…], log, open_stdin, stdin_once, restart, health,
    lease (s that an exclusive container may run on one granted heartbeat; 0 = not exclusive), isolation (see ISOLATIONS)}."""

    __slots__ = (
        "_path",
        "cgroups_path",
        "health",
        "isolation",
        "lease",
        "log",
        "oom_score_adj",
        "open_stdin",
        "restart",
        "stdin_once",
        "terminal",
    )

    def __init__(self, directory: str, values: dict[str, Any]) -> None:
        process = values["config"]["process"]
        self._path = _path(directory)
        self.terminal = bool(process.get("terminal"))
        self.oom_score_adj = int(process.get("oomScoreAdj", 0))
        self.cgroups_path = str((values["config"].get("linux") or {}).get("cgroupsPath") or "")
        self.log: dict[str, Any] = values["log"]
        self.restart: dict[str, Any] = values["restart"]
        self.health: dict[str, Any] = values["health"]
        self.open_stdin = bool(values.get("open_stdin"))
        self.lease = float(values.get("lease") or 0.0)
        self.isolation = str(values.get("isolation") or SHARED)
        self.stdin_once = bool(values.get("stdin_once"))

    @classmethod
    def create(cls, directory: str, values: dict[str, Any]) -> Specification:
        """Write it; `sync` makes it durable. Raises OSError."""
        values["config"]["process"].setdefault("oomScoreAdj", 0)  # unset means inherited, and ours is low
        values["config"]["process"].setdefault("user", {}).setdefault("umask", 0o022)  # the same: ours closes everything
        durable.write(_path(directory), values, sync=False)
        return cls(directory, values)

    @classmethod
    def load(cls, directory: str) -> Specification | None:
        """None when it was never written. Raises InvalidJson, KeyError for a damaged one."""
        values = durable.read(_path(directory))
        return None if values is None else cls(directory, values)

    def sync(self) -> None:
        """Contents only: the name is durable once its directory is synced. Raises OSError."""
        durable.sync_file(self._path)

    def read(self) -> dict[str, Any]:
        """All of it. Raises InvalidRequest when the file is gone."""
        values = durable.read(self._path)
        if not isinstance(values, dict):
            raise InvalidRequest(f"{self._path} is gone: the container can only be deleted")
        return values

    def update(self, resources: dict[str, Any] | None, policy: dict[str, Any] | None) -> None:
        """Changed limits and restart policy, for later runs. Raises OSError."""
        values = self.read()
        if resources is not None:
            linux = values["config"].setdefault("linux", {})
            linux["resources"] = _merged(linux.get("resources") or {}, resources)
        if policy is not None:
            values["restart"] = policy
        durable.write(self._path, values)
        self.restart = values["restart"]


def check(values: dict[str, Any]) -> None:
    """Raises what is wrong with a specification, before anything is made."""
    config = values.get("config")
    if not isinstance(config, dict):
        raise InvalidRequest("config has to be an OCI configuration, an object")
    process = config.get("process")
    if not isinstance(process, dict) or not isinstance(process.get("args"), list) or not process["args"]:
        raise InvalidRequest("config.process.args is missing: say what to run")
    if not isinstance(process.get("user", {}), dict) or not isinstance(config.get("linux") or {}, dict):
        raise InvalidRequest("config.process.user and config.linux have to be objects")
    if not isinstance(process.get("oomScoreAdj", 0), int):
        raise InvalidRequest("config.process.oomScoreAdj has to be a whole number")
    if not isinstance(values.get("rootfs"), list) or not all(_is_mount(row) for row in values["rootfs"]):
        raise InvalidRequest("rootfs has to be a list of mounts [type, source, target, [option…]]")
    if not 0 <= values["lease"] <= LONGEST_LEASE:
        raise InvalidRequest(
            f"lease is {values['lease']!r}: give seconds, a day at most, or 0 for a container that is not exclusive"
        )
    if values["isolation"] not in ISOLATIONS:
        raise InvalidRequest(f"isolation is {values['isolation']!r}: use one of {', '.join(ISOLATIONS)}")
    for key, validate in (("log", LogSettings), ("restart", restart.validate), ("health", health.validate)):
        if not isinstance(values[key], dict):
            raise InvalidRequest(f"{key} has to be an object")
        validate(values[key])


def _is_mount(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 4 and all(isinstance(text, str) for text in row[:3]) and isinstance(row[3], list)


def _path(directory: str) -> str:
    return os.path.join(directory, "config.json")


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new` laid over `old`, section by section; lists are replaced."""
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        result[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result
