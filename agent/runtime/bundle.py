"""From a bundle to a created container with its state directory: what the command line does by itself or has a supervisor do."""

from __future__ import annotations

import os

from agent.runtime import container
from agent.runtime import plan as plans
from agent.runtime.cgroup import Cgroup
from agent.runtime.errors import CgroupRefused, InvalidConfig
from agent.runtime.state import CGROUP_PARENT, StateDirectory, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.container import Init, Stdio
    from agent.runtime.plan import Plan


class Bundle:
    """`path` is the bundle's directory, `text` its config.json as bytes, `config` the same parsed."""

    __slots__ = ("config", "path", "text")

    def __init__(self, path: str, name: str, loads: Callable[[bytes], Any]) -> None:
        """Raises InvalidConfig."""
        if not os.path.isdir(path):
            raise InvalidConfig(f"chdir {path}: no such file or directory")
        file = os.path.join(path, name or "config.json")
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InvalidConfig(f"JSON specification file {name or 'config.json'} not found in {path}") from None
        try:
            self.text = os.read(fd, os.fstat(fd).st_size + 1)
        finally:
            os.close(fd)
        try:
            self.config: dict[str, Any] = loads(self.text)
        except ValueError as error:
            raise InvalidConfig(f"{file} is not JSON: {error}") from error
        if not isinstance(self.config, dict):
            raise InvalidConfig(f"{file} is not a JSON object")
        self.path = os.path.realpath(path)

    @property
    def terminal(self) -> bool:
        process = self.config.get("process")
        return isinstance(process, dict) and bool(process.get("terminal"))

    def replace(self, config: dict[str, Any], dumps: Callable[[dict[str, Any]], str]) -> None:
        """Go on with another configuration than the bundle's."""
        self.config, self.text = config, dumps(config).encode()

    def plan(self, id: str, cgroup_manager: str = "cgroupfs") -> Plan:
        return plans.compile(
            self.config, id=id, rootfs=None, cgroup_parent=CGROUP_PARENT, bundle=self.path, cgroup_manager=cgroup_manager
        )


def create(
    directory: StateDirectory, plan: Plan, io: Stdio, dumps: Callable[[dict[str, Any]], bytes], **options: Any
) -> tuple[Init, str]:
    """The process that waits to be started, recorded; and a warning or "". `options` are container.create's.

    `directory` was made before; nothing is left of a creation that fails, the directory included.
    """
    try:
        warning = _look_at_cgroup(Cgroup(plan.cgroup_path))
        init = container.create(plan, io, **options)
    except BaseException:
        directory.remove()
        raise
    try:
        directory.write("state.json", dumps(values(directory.id, init.pid, init.start_time, plan)))
    except BaseException:
        container.destroy(init)
        directory.remove()
        raise
    return init, warning


def _look_at_cgroup(cgroup: Cgroup) -> str:
    """One that exists may hold another container. Raises CgroupRefused for a frozen one, in which nothing of ours would run."""
    if not cgroup.exists():
        return ""
    if cgroup.frozen():
        raise CgroupRefused(f"container's cgroup unexpectedly frozen: thaw or remove {cgroup.path}")
    found = len(cgroup.pids())
    return f"container's cgroup is not empty: {found} process(es) found in {cgroup.path}" if found else ""
