"""mounts add and remove: change what a running container has mounted, as crun has it."""

from __future__ import annotations

import json
import os
import stat

from agent.protocol.errors import InvalidInput
from agent.runtime import mounts as steps
from agent.runtime import rootfs, targets
from agent.runtime.cli import handles
from agent.runtime.errors import InvalidConfig, RuntimeFailed, WrongState
from agent.runtime.state import StateDirectory
from agent.sys import mountapi as api
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log
    from agent.runtime.mounts import MountStep

OURS = (b"proc", b"sysfs", b"cgroup", b"cgroup2", b"mqueue", b"devpts")  # they would show the caller's namespaces


def mounts(options: Options, log: Log) -> int:
    """The file is the `mounts` section of a config.json; `remove` looks at the destinations only."""
    what, id, path = options.words
    if what not in ("add", "remove"):
        raise InvalidInput(f"unknown command mounts {what}; use mounts add or mounts remove")
    directory = StateDirectory(handles.root(options), id)
    wanted = _wanted(path)
    if not directory.alive():
        raise WrongState("container not running")
    if what == "add":
        _add(directory, wanted)
    else:
        _inside(directory, lambda root: _remove(root, wanted))
    return 0


def _wanted(path: str) -> list[MountStep]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise InvalidInput(f"{path} is not a list of mounts, as config.json has it")
    return [steps.from_oci(item) for item in found]


def _add(directory: StateDirectory, wanted: list[MountStep]) -> None:
    """Made here, detached, from the caller's paths; put in place inside."""
    made: list[int] = []
    try:
        for step in wanted:
            if step.kind != "bind" and step.fstype in OURS:
                raise InvalidConfig(f"a {step.fstype.decode()} cannot be added to a running container: it belongs to namespaces")
            made.append(rootfs.bind(step) if step.kind == "bind" else rootfs.new_filesystem(step))
        _inside(directory, lambda root: _place(root, wanted, made))
    finally:
        for mount in made:
            os.close(mount)


def _place(root: int, wanted: list[MountStep], made: list[int]) -> None:
    for step, mount in zip(wanted, made, strict=True):
        _place_one(root, step, mount)


def _place_one(root: int, step: MountStep, mount: int) -> None:
    directory = step.kind != "bind" or stat.S_ISDIR(os.fstat(mount).st_mode)
    target = targets.target_in(root, step.target, directory)
    if step.kind == "bind" and (step.attr_set or step.attr_clr):
        api.set_attributes(mount, step.attr_set, step.attr_clr)
    if step.rec_set or step.rec_clr:
        api.set_attributes(mount, step.rec_set, step.rec_clr, recursive=True)
    api.attach(mount, target)
    os.close(target)


def _remove(root: int, wanted: list[MountStep]) -> None:
    """The path is looked up in the container's own tree: a link there can only lead to another of its mounts."""
    os.fchdir(root)
    for step in reversed(wanted):
        api.unmount(b"/" + step.target)


def _inside(directory: StateDirectory, work: Callable[[int], None]) -> None:
    """Do `work` with the container's root, in its mount namespace, by a child of ours. Raises RuntimeFailed with its reason."""
    pidfd = os.pidfd_open(directory.state()["pid"])
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            process.prctl(process.PR_SET_DUMPABLE, 0)
            process.setns(pidfd, process.CLONE_NEWNS)
            work(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except BaseException as error:  # noqa: BLE001  # nothing may return into the parent's frames
            os.write(write, str(error).encode()[:2000])
        os._exit(0)
    os.close(write)
    os.close(pidfd)
    reason = b""
    while piece := os.read(read, 4096):
        reason += piece
    os.close(read)
    os.waitpid(pid, 0)
    if reason:
        raise RuntimeFailed(f"mounts: {reason.decode(errors='replace')}", stage="mounts", errno=0)
