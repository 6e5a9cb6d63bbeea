"""create and run."""

from __future__ import annotations

import json
import os

from agent.runtime import container
from agent.runtime import plan as plans
from agent.runtime.cgroup import Cgroup
from agent.runtime.cli import delete, handles
from agent.runtime.container import Init, Stdio
from agent.runtime.errors import CgroupRefused, InvalidConfig
from agent.runtime.state import CGROUP_PARENT, StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def create(options: Options, log: Log) -> int:
    directory, config = _bundle(options)
    try:
        check_console(config, options, detached=True)
        gate = _gate(directory)
    except BaseException:
        directory.remove()
        raise
    try:
        init = _create(options, log, directory, config, gate)
    finally:
        for fd in gate:
            os.close(fd)
    init.abandon()
    handles.give(options, init)
    os.close(init.pidfd)
    return 0


def run(options: Options, log: Log) -> int:
    directory, config = _bundle(options)
    try:
        check_console(config, options, options.flag("detach"))
    except BaseException:
        directory.remove()
        raise
    init = _create(options, log, directory, config, None)
    try:
        handles.give(options, init)
        init.start()
    except BaseException:
        init.cgroup.kill()
        container.reap(init.pidfd)
        delete.destroy(directory, init.cgroup, log)
        raise
    if options.flag("detach"):
        return 0
    status = handles.wait(init)
    if not options.flag("keep"):
        init.cgroup.kill()
        delete.destroy(directory, init.cgroup, log)
    return status


def _create(options: Options, log: Log, directory: StateDirectory, config: dict[str, Any], gate: tuple[int, int] | None) -> Init:
    try:
        handles.refuse_systemd(options)
        bundle = os.path.realpath(options.text("bundle", "."))
        plan = plans.compile(config, id=options.id, rootfs=None, cgroup_parent=CGROUP_PARENT, bundle=bundle)
        _look_at_cgroup(Cgroup(plan.cgroup_path), log)
        log.debug(f"nsexec container setup of {options.id}")  # the three steps that runc names so
        init = container.create(
            plan,
            Stdio(0, 1, 2, terminal=plan.process.terminal),
            gate=gate,
            keep_fds=handles.kept(options),
            pivot=not options.flag("no-pivot"),
            keyring=not options.flag("no-new-keyring"),
            look_up=True,  # both peers' create does: podman and dockerd take their 126 and 127 from there
        )
        log.debug(f"child process in init() is {init.pid}")
        log.debug("init: closing the pipe to signal completion")
        directory.record(init.pid, init.start_time, plan)
    except BaseException:
        directory.remove()
        raise
    return init


def _look_at_cgroup(cgroup: Cgroup, log: Log) -> None:
    """One that exists may hold another container. Raises CgroupRefused for a frozen one, in which nothing of ours would run."""
    if not cgroup.exists():
        return
    if cgroup.frozen():
        raise CgroupRefused(f"container's cgroup unexpectedly frozen: thaw or remove {cgroup.path}")
    found = len(cgroup.pids())
    if found:
        log.warning(f"container's cgroup is not empty: {found} process(es) found in {cgroup.path}")


def _bundle(options: Options) -> tuple[StateDirectory, dict[str, Any]]:
    """The new state directory and the bundle's config."""
    bundle = options.text("bundle", ".")
    if not os.path.isdir(bundle):
        raise InvalidConfig(f"chdir {bundle}: no such file or directory")
    path = os.path.join(bundle, options.text("config", "config.json"))
    try:
        with open(path, "rb") as file:
            text = file.read()
        config = json.loads(text)
    except FileNotFoundError:
        raise InvalidConfig(f"JSON specification file {path} not found") from None
    except ValueError as error:
        raise InvalidConfig(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidConfig(f"{path} is not a JSON object")
    directory = StateDirectory(options.text("root", handles.ROOT), options.id)
    directory.make(text)
    return directory, config


def check_console(config: dict[str, Any], options: Options, detached: bool) -> None:
    """Raises InvalidConfig, in runc's words, where a terminal would have no other end."""
    process = config.get("process")
    terminal = isinstance(process, dict) and bool(process.get("terminal"))
    socket = options.text("console-socket")
    if terminal and detached and not socket:
        raise InvalidConfig(f"cannot allocate tty if {options.program} will detach without setting console socket")
    if socket and not terminal:
        raise InvalidConfig(f"cannot use console socket if {options.program} will not detach or allocate tty")


def _gate(directory: StateDirectory) -> tuple[int, int]:
    """Both pipes open for reading and writing, so that neither end sees an end of file while nobody starts the container."""
    fds = []
    for name in ("exec.fifo", "status.fifo"):
        path = os.path.join(directory.path, name)
        os.mkfifo(path, 0o600)
        fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    return fds[0], fds[1]
