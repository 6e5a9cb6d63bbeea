"""checkpoint and restore."""

from __future__ import annotations

import argparse
import os

from agent.runtime import container, hooks
from agent.runtime import plan as plans
from agent.runtime.cgroup import Cgroup, delegation
from agent.runtime.cli import lifecycle
from agent.runtime.container import Init
from agent.runtime.errors import InvalidConfig, WrongState
from agent.runtime.plan import CLONE_FLAGS
from agent.runtime.state import CGROUP_PARENT, StateDirectory
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.criu.options import Choices

Options = argparse.Namespace


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Both commands and their options, which are runc's and crun's."""
    command = commands.add_parser("checkpoint", help="write a running container to a directory (criu)")
    _common(command)
    for flag in ("--leave-running", "--pre-dump", "--tcp-skip-in-flight"):
        command.add_argument(flag, action="store_true")
    command.add_argument("--parent-path", default="", help="earlier images, of a pre-dump")
    command.add_argument("--status-fd", type=int, default=0)
    command.add_argument("--page-server", default="", help="address:port that takes the memory")
    command.add_argument("id")
    command.set_defaults(function=checkpoint)
    command = commands.add_parser("restore", help="bring a checkpointed container back (criu)")
    _common(command)
    command.add_argument("-b", "--bundle", default=".")
    command.add_argument("-d", "--detach", action="store_true")
    command.add_argument("--pid-file", default="")
    command.add_argument("--console-socket", default="")
    command.add_argument("--no-subreaper", action="store_true", help="accepted for runc's callers")
    command.add_argument("--no-pivot", action="store_true", help="accepted for runc's callers")
    command.add_argument("--lsm-profile", default="")
    command.add_argument("--lsm-mount-context", default="")
    command.add_argument("id")
    command.set_defaults(function=restore)


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--image-path", default="checkpoint", help="directory of the images")
    command.add_argument("--work-path", default="", help="directory of logs and the like; else that of the images")
    for flag in (
        "--tcp-established",
        "--ext-unix-sk",
        "--shell-job",
        "--lazy-pages",
        "--file-locks",
        "--link-remap",
        "--auto-dedup",
    ):
        command.add_argument(flag, action="store_true")
    command.add_argument("--manage-cgroups-mode", choices=("soft", "full", "strict", "ignore"), default="soft")
    command.add_argument("--empty-ns", action="append", default=[], help="a namespace not to look into: network")


def checkpoint(options: Options) -> int:
    from agent.runtime.criu import images  # criu's room and what it needs of the library cost 10 ms

    directory = StateDirectory(options.root, options.id)
    if not directory.alive() or directory.status() == "created":
        raise WrongState(f"Container cannot be checkpointed in {directory.status()} state")
    choices = _choices(options)
    choices.leave_running, choices.pre_dump = options.leave_running or options.pre_dump, options.pre_dump
    choices.tcp_skip_in_flight, choices.parent_path, choices.status_fd = (
        options.tcp_skip_in_flight, options.parent_path, options.status_fd,
    )  # fmt: skip
    if options.page_server:
        address, _, port = options.page_server.rpartition(":")
        if not address or not port.isdigit():
            raise InvalidConfig("Use --page-server ADDRESS:PORT to specify page server")
        choices.page_server = address, int(port)
    images.dump(directory.plan(), directory.state()["pid"], choices)
    if not choices.leave_running:
        lifecycle._destroy(directory, directory.cgroup())
    return 0


def restore(options: Options) -> int:
    choices = _choices(options)
    choices.lsm_profile, choices.lsm_mount_context = options.lsm_profile, options.lsm_mount_context
    options.config = ""
    directory, config = lifecycle._bundle(options)
    init: Init | None = None
    try:
        manager = "systemd" if options.systemd_cgroup else options.cgroup_manager
        bundle = os.path.realpath(options.bundle)
        plan = plans.compile(
            config, id=options.id, rootfs=None, cgroup_parent=CGROUP_PARENT, bundle=bundle, cgroup_manager=manager
        )
        init = _restored(options, plan, choices, directory)
    except BaseException:
        if init is None:
            directory.remove()
        raise
    if init.console_fd >= 0 and options.console_socket:
        lifecycle.hand_over(init, options.console_socket)
    lifecycle._write_pid(options.pid_file, init.pid)
    if "poststart" in plan.hooks:
        hooks.run(plan.hooks["poststart"], "poststart", container.state_of(plan, "running", init.pid))
    if options.detach:
        return 0
    status = lifecycle.wait(init)
    lifecycle._destroy(directory, init.cgroup)
    return status


def _restored(options: Options, plan: plans.Plan, choices: Choices, directory: StateDirectory) -> Init:
    cgroup = Cgroup(plan.cgroup_path)
    cgroup.create(plan.resources, delegation.owner(plan))
    init = Init(plan, cgroup, None)
    from agent.runtime.criu import images

    def console(master: int) -> None:
        init.console_fd = master

    try:
        init.pid = images.restore(plan, cgroup, choices, directory.path, console)
        init.pidfd = os.pidfd_open(init.pid)
        init.start_time = process.start_time(init.pid)
        cgroup.settle()
        directory.record(init.pid, init.start_time, plan)
    except BaseException:
        container.destroy(init)
        raise
    return init


def _choices(options: Options) -> Choices:
    from agent.runtime.criu.options import Choices

    image_path = os.path.abspath(options.image_path)
    empty = 0
    for kind in options.empty_ns:
        if kind not in CLONE_FLAGS:
            raise InvalidConfig(f"namespace {kind!r} is not known")
        empty |= CLONE_FLAGS[kind]
    return Choices(
        image_path, os.path.abspath(options.work_path) if options.work_path else image_path, binary=options.criu,
        tcp_established=options.tcp_established, ext_unix_sk=options.ext_unix_sk, shell_job=options.shell_job,
        lazy_pages=options.lazy_pages, file_locks=options.file_locks, link_remap=options.link_remap,
        auto_dedup=options.auto_dedup, cgroup_mode=options.manage_cgroups_mode, empty_ns=empty,
    )  # fmt: skip
