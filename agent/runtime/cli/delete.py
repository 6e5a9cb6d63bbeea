"""delete, and the removal that `run` ends with."""

from __future__ import annotations

import os
import re

from agent.protocol.errors import InvalidInput, Unavailable
from agent.runtime import conversation, hooks, resctrl
from agent.runtime.cgroup import Cgroup
from agent.runtime.cli import handles
from agent.runtime.errors import WrongState
from agent.runtime.state import StateDirectory, every

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def delete(options: Options, log: Log) -> int:
    for directory in chosen(options):
        _delete(directory, options.flag("force"), log)
    return 0


def chosen(options: Options) -> list[StateDirectory]:
    """The container that is named, or every one whose id the regular expression matches, as crun has it."""
    root = handles.root(options)
    if not options.flag("regex"):
        return [StateDirectory(root, options.id)]
    try:
        wanted = re.compile(options.id)
    except re.error as error:
        raise InvalidInput(f"{options.id!r} is not a regular expression: {error}") from error
    return [directory for directory in every(root) if wanted.search(directory.id)]


def _delete(directory: StateDirectory, force: bool, log: Log) -> None:
    if force and not directory.exists():
        return
    if force and not os.path.exists(os.path.join(directory.path, "state.json")):
        directory.remove()  # a creation that was cut short
        return
    status = directory.status()
    if status != "stopped" and not force:  # spec: not a created one either, though runc and crun do
        raise WrongState(f"cannot delete container {directory.id} that is not stopped: {status}")
    cgroup = directory.cgroup()
    directory.kill()  # it may share its cgroup, or sit in another by now
    if cgroup.exists():
        cgroup.kill()
    destroy(directory, cgroup, log)


def destroy(directory: StateDirectory, cgroup: Cgroup, log: Log) -> None:
    """Cgroup, state and poststop hooks of a container without processes."""
    if not cgroup.remove(seconds=10.0):
        raise Unavailable(f"the cgroup {cgroup.path} is still busy; delete the container again later")
    config, bundle = directory.config(), directory.state()["bundle"]
    if (wanted := (config.get("linux") or {}).get("intelRdt")) is not None:
        resctrl.Class(wanted, directory.id).remove()
    directory.remove()
    poststop = (config.get("hooks") or {}).get("poststop") or []
    if not poststop:
        return
    state = conversation.oci_state(directory.id, "stopped", 0, bundle, config.get("annotations") or {})
    for failure in hooks.run_all(poststop, "poststop", state):
        log.warning(failure)  # spec: must not keep the container, nor the next hook
