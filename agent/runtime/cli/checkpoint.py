"""checkpoint and restore, through criu."""

from __future__ import annotations

import json
import os

from agent.runtime import container, conversation, hooks
from agent.runtime.bundle import Bundle
from agent.runtime.cgroup import Cgroup
from agent.runtime.cli import create, delete, handles
from agent.runtime.container import Init
from agent.runtime.criu import images
from agent.runtime.criu.options import Choices
from agent.runtime.errors import InvalidConfig, WrongState
from agent.runtime.ownership import cgroup_owner
from agent.runtime.plan import CLONE_FLAGS
from agent.runtime.state import StateDirectory, values
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log
    from agent.runtime.plan import Plan

CGROUP_MODES = ("soft", "full", "strict", "ignore")


def checkpoint(options: Options, log: Log) -> int:
    directory = StateDirectory(handles.root(options), options.id)
    status = directory.status()
    if status not in ("running", "paused"):
        raise WrongState(f"container cannot be checkpointed in {status} state")
    choices = _choices(options)
    choices.pre_dump = options.flag("pre-dump")
    choices.leave_running = options.flag("leave-running") or choices.pre_dump
    choices.tcp_skip_in_flight = options.flag("tcp-skip-in-flight")
    choices.parent_path, choices.status_fd = _parent_path(options, choices.image_path), options.number("status-fd") or 0
    if options.text("page-server"):
        address, _, port = options.text("page-server").rpartition(":")
        if not address or not port.isdigit():
            raise InvalidConfig("use --page-server ADDRESS:PORT to specify the page server")
        choices.page_server = address, int(port)
    images.dump(directory.plan(), directory.state()["pid"], choices)
    if not choices.leave_running:
        delete.destroy(directory, directory.cgroup(), log)
    return 0


def _parent_path(options: Options, image_path: str) -> str:
    """Where an earlier dump is, as criu takes it: relative to the directory of images."""
    path = options.text("parent-path")
    if path.startswith("/"):
        raise InvalidConfig(f"--parent-path {path!r} is absolute; it must be relative to --image-path")
    parent = os.path.normpath(os.path.join(image_path, path))  # by its name: --image-path need not be there yet
    if path and not os.path.isdir(parent):
        raise InvalidConfig(f"--parent-path {path!r}: {parent} is no directory; name one that a --pre-dump wrote")
    return path


def restore(options: Options, log: Log) -> int:
    choices = _choices(options)
    choices.lsm_profile, choices.lsm_mount_context = options.text("lsm-profile"), options.text("lsm-mount-context")
    found = Bundle(options.text("bundle", "."), "", json.loads)
    create.check_console(found.terminal, options, options.flag("detach"))
    directory = StateDirectory(handles.root(options), options.id)
    directory.make(found.text)
    try:
        plan = found.plan(options.id, handles.manager(options))
        init = _restored(plan, choices, directory)
    except BaseException:
        directory.remove()
        raise
    handles.give(options, init)
    if "poststart" in plan.hooks:
        hooks.run(plan.hooks["poststart"], "poststart", conversation.state_of(plan, "running", init.pid), plan.annotations)
    if options.flag("detach"):
        return 0
    status = handles.wait(init)
    init.cgroup.kill()
    delete.destroy(directory, init.cgroup, log)
    return status


def _restored(plan: Plan, choices: Choices, directory: StateDirectory) -> Init:
    """The process, recorded. Nothing of it is left when it raises."""
    cgroup = Cgroup(plan.cgroup_path)
    cgroup.create(plan.resources, cgroup_owner(plan))
    init = Init(plan, cgroup, None)

    def console(master: int) -> None:
        init.console_fd = master

    try:
        init.pid = images.restore(plan, cgroup, choices, directory.path, console)
        init.pidfd = os.pidfd_open(init.pid)
        init.start_time = process.start_time(init.pid)
        cgroup.settle()
        directory.write("state.json", json.dumps(values(directory.id, init.pid, init.start_time, plan)).encode())
    except BaseException:
        container.destroy(init)
        raise
    return init


def _choices(options: Options) -> Choices:
    image_path = os.path.abspath(options.text("image-path", "checkpoint"))
    work_path = options.text("work-path")
    mode = options.text("manage-cgroups-mode", "soft")
    if mode not in CGROUP_MODES:
        raise InvalidConfig(f"--manage-cgroups-mode {mode!r} is not known; use {', '.join(CGROUP_MODES)}")
    empty = 0
    for kind in options.many("empty-ns"):
        if kind not in CLONE_FLAGS:
            raise InvalidConfig(f"namespace {kind!r} is not known")
        empty |= CLONE_FLAGS[kind]
    return Choices(
        image_path,
        os.path.abspath(work_path) if work_path else image_path,
        binary=options.text("criu", "criu"),
        tcp_established=options.flag("tcp-established"),
        ext_unix_sk=options.flag("ext-unix-sk"),
        shell_job=options.flag("shell-job"),
        lazy_pages=options.flag("lazy-pages"),
        file_locks=options.flag("file-locks"),
        link_remap=options.flag("link-remap"),
        auto_dedup=options.flag("auto-dedup"),
        cgroup_mode=mode,
        empty_ns=empty,
    )
