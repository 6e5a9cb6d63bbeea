"""create, run, start, kill, delete, pause, resume, update."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

from agent.protocol.errors import Unavailable
from agent.runtime import container, hooks
from agent.runtime import plan as plans
from agent.runtime.container import Init, Stdio
from agent.runtime.errors import InvalidConfig, RuntimeFailed, WrongState
from agent.runtime.state import CGROUP_PARENT, StateDirectory

Options = argparse.Namespace


def create(options: Options) -> int:
    directory, config = _bundle(options)
    _check_console(config, options.console_socket, detached=True)
    gate = _gate(directory)
    try:
        init = _create(options, directory, config, gate)
    finally:
        for fd in gate:
            os.close(fd)
    init.abandon()
    if init.console_fd >= 0:
        hand_over(init, options.console_socket)
    _write_pid(options.pid_file, init.pid)
    return 0


def run(options: Options) -> int:
    directory, config = _bundle(options)
    _check_console(config, options.console_socket, options.detach)
    init = _create(options, directory, config, None)
    try:
        _write_pid(options.pid_file, init.pid)
        if init.console_fd >= 0 and options.console_socket:
            hand_over(init, options.console_socket)
        init.start()
    except BaseException:
        init.cgroup.kill()
        container.reap(init.pidfd)
        _destroy(directory, init.cgroup)
        raise
    if options.detach:
        return 0
    status = wait(init)
    if not options.keep:
        _destroy(directory, init.cgroup)
    return status


def _create(options: Options, directory: StateDirectory, config: dict[str, Any], gate: tuple[int, int] | None) -> Init:
    try:
        bundle = os.path.realpath(options.bundle)
        manager = "systemd" if options.systemd_cgroup else options.cgroup_manager
        plan = plans.compile(
            config, id=options.id, rootfs=None, cgroup_parent=CGROUP_PARENT, bundle=bundle, cgroup_manager=manager
        )
        init = container.create(
            plan,
            Stdio(0, 1, 2, terminal=plan.process.terminal),
            gate=gate,
            keep_fds=options.preserve_fds + int(os.environ.get("LISTEN_FDS") or 0),
            pivot=not options.no_pivot,
            keyring=not options.no_new_keyring,
        )
        directory.record(init.pid, init.start_time, plan)
    except BaseException:
        directory.remove()
        raise
    return init


def _bundle(options: Options) -> tuple[StateDirectory, dict[str, Any]]:
    """The new state directory and the bundle's config."""
    path = options.config or os.path.join(options.bundle, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        raise InvalidConfig(f"JSON specification file {path} not found") from None
    except ValueError as error:
        raise InvalidConfig(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidConfig(f"{path} is not a JSON object")
    directory = StateDirectory(options.root, options.id)
    directory.make(config)
    return directory, config


def _check_console(config: dict[str, Any], socket: str, detached: bool) -> None:
    terminal = bool((config.get("process") or {}).get("terminal"))
    if terminal and detached and not socket:
        raise InvalidConfig("cannot allocate tty if the container is detached without setting console socket")
    if socket and not terminal:
        raise InvalidConfig("cannot use console socket if the container has no terminal")


def _gate(directory: StateDirectory) -> tuple[int, int]:
    """Both pipes open for reading and writing, so that neither end sees an end of file while nobody starts the container."""
    fds = []
    for name in ("exec.fifo", "status.fifo"):
        path = os.path.join(directory.path, name)
        os.mkfifo(path, 0o600)
        fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    return fds[0], fds[1]


def start(options: Options) -> int:
    directory = StateDirectory(options.root, options.id)
    status = directory.status()
    if status != "created":
        raise WrongState(f"cannot start a container that has {'already started' if status != 'stopped' else 'stopped'}")
    plan = directory.plan()
    fifo = os.path.join(directory.path, "exec.fifo")
    answer = os.open(os.path.join(directory.path, "status.fifo"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(answer, True)
    order = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.unlink(fifo)
    os.write(order, b"S")
    message = os.read(answer, 4096)
    if message[:1] == b"L":
        state = directory.state()
        pidfd = os.pidfd_open(state["pid"])
        init = Init(plan, directory.cgroup(), None)
        init.pid, init.pidfd = state["pid"], pidfd
        init.deliver_listener(int(message[1:]))
        os.write(order, b"S")
        message = os.read(answer, 4096)
    if message[:1] == b"E":
        raise container.failure(message[1:], plan.process.args[0], plan.id)
    if "poststart" in plan.hooks:
        hooks.run(plan.hooks["poststart"], "poststart", container.state_of(plan, "running", directory.state()["pid"]))
    return 0


def hand_over(init: Init, path: str) -> None:
    """Give the terminal's master to whoever listens on `path`."""
    from agent.runtime.cli import console  # sockets and terminals cost 4 ms, and few containers have one

    console.hand_over(init.console_fd, path)
    init.console_fd = -1


def wait(init: Init) -> int:
    """Forward signals and the terminal until the process ends; its exit status as a shell gives it."""

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            signal.pidfd_send_signal(init.pidfd, number)
        except ProcessLookupError:
            pass  # it has just ended

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)
    if init.console_fd >= 0:
        from agent.runtime.cli import console

        console.relay(init.console_fd, init.pidfd)
    result = os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED)
    os.close(init.pidfd)
    if result is None:
        return 1
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def kill(options: Options) -> int:
    number = signal_number(options.signal)
    directory = StateDirectory(options.root, options.id)
    state = directory.state()
    if options.all:
        _kill_all(directory, number)
        return 0
    if not directory.alive():
        raise WrongState("container not running")
    os.kill(state["pid"], number)
    if number == signal.SIGKILL and directory.cgroup().frozen():
        directory.cgroup().thaw()  # a task frozen by v1 dies only after the thaw
    return 0


def _kill_all(directory: StateDirectory, number: int) -> None:
    cgroup = directory.cgroup()
    if number == signal.SIGKILL:
        cgroup.kill()
        return
    for pid in cgroup.pids():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # ended meanwhile


def signal_number(text: str) -> int:
    """From a number, "TERM" or "SIGTERM"."""
    if text.isdigit():
        number = int(text)
        if 0 < number < 65:
            return number
    else:
        name = text.upper()
        name = name if name.startswith("SIG") else "SIG" + name
        if hasattr(signal, name) and isinstance(getattr(signal, name), signal.Signals):
            return int(getattr(signal, name))
    raise InvalidConfig(f"unknown signal {text!r}")


def delete(options: Options) -> int:
    directory = StateDirectory(options.root, options.id)
    if options.force and not directory.exists():
        return 0
    if options.force and not os.path.exists(os.path.join(directory.path, "state.json")):
        directory.remove()  # a creation that was cut short
        return 0
    status = directory.status()
    if status not in ("stopped", "created") and not options.force:
        raise WrongState(f"cannot delete container {options.id} that is not stopped: {status}")
    cgroup = directory.cgroup()
    if cgroup.exists():
        cgroup.kill()
    _destroy(directory, cgroup)
    return 0


def _destroy(directory: StateDirectory, cgroup: Any) -> None:
    if not cgroup.remove(seconds=10.0):
        raise Unavailable(f"the cgroup {cgroup.path} is still busy; delete the container again later")
    plan = directory.plan()
    state = container.state_of(plan, "stopped", 0)
    directory.remove()
    try:
        hooks.run(plan.hooks.get("poststop", []), "poststop", state)
    except RuntimeFailed as error:
        sys.stderr.write(f"wharf-runtime: warning: {error.detail}\n")  # spec: must not keep the container


def pause(options: Options) -> int:
    directory = StateDirectory(options.root, options.id)
    status = directory.status()
    if status not in ("running", "created"):
        raise WrongState(f"container {options.id} is not running or created: {status}")
    directory.cgroup().freeze()
    return 0


def resume(options: Options) -> int:
    directory = StateDirectory(options.root, options.id)
    if not directory.alive() or not directory.cgroup().frozen():
        raise WrongState(f"container {options.id} is not paused")
    directory.cgroup().thaw()
    return 0


def update(options: Options) -> int:
    directory = StateDirectory(options.root, options.id)
    if not directory.alive():
        raise WrongState(f"container {options.id} is not running")
    if options.resources:
        if options.resources == "-":
            resources = json.load(sys.stdin)
        else:
            with open(options.resources, encoding="utf-8") as file:
                resources = json.load(file)
    else:
        resources = _resources(options)
    directory.cgroup().update(resources)
    return 0


def _resources(options: Options) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for flag, section, key in (
        ("blkio_weight", "blockIO", "weight"),
        ("cpu_period", "cpu", "period"),
        ("cpu_quota", "cpu", "quota"),
        ("cpu_burst", "cpu", "burst"),
        ("cpu_share", "cpu", "shares"),
        ("cpuset_cpus", "cpu", "cpus"),
        ("cpuset_mems", "cpu", "mems"),
        ("memory", "memory", "limit"),
        ("memory_reservation", "memory", "reservation"),
        ("memory_swap", "memory", "swap"),
        ("pids_limit", "pids", "limit"),
    ):
        value = getattr(options, flag)
        if value is not None:
            resources.setdefault(section, {})[key] = value
    return resources


def _write_pid(path: str, pid: int) -> None:
    if path:
        with open(path + ".tmp", "w", encoding="ascii") as file:
            file.write(str(pid))
        os.rename(path + ".tmp", path)
