"""exec."""

from __future__ import annotations

import json

from agent.runtime.cli import create, handles, merge
from agent.runtime.container import Stdio, kill_and_reap
from agent.runtime.errors import WrongState
from agent.runtime.exec import exec_in
from agent.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def execute(options: Options, log: Log) -> int:
    directory = StateDirectory(handles.root(options), options.id)
    state = directory.state()
    if not directory.alive():
        raise WrongState("cannot exec in a stopped container")
    if not options.flag("ignore-paused") and directory.cgroup().frozen():
        raise WrongState("cannot exec in a paused container (use --ignore-paused to override)")
    plan = directory.plan()
    path = options.text("process")
    process = merge.read(path, json.loads) if path else merge.process(plan.config["process"], options)
    create.check_console(bool(process.get("terminal")), options, options.flag("detach"))
    io = Stdio(0, 1, 2, terminal=bool(process.get("terminal")))
    io.plain_newlines = not options.text("console-socket")
    log.debug(f"nsexec container setup of a process in {options.id}")  # the three steps that runc names so
    log.debug("child process in init()")
    log.debug(f"setns_init: about to exec {process['args']}")
    if not options.flag("detach"):
        handles.hold_signals()
    init = exec_in(
        plan,
        state["pid"],
        process,
        io,
        start_time=state["start_time"],
        keep_fds=handles.kept(options),
        ignore_paused=True,
        below=merge.below(options.many("cgroup"), plan.cgroup_path),
    )
    try:
        handles.give(options, init)
    except BaseException:
        kill_and_reap(init)  # whoever manages it cannot reach it
        raise
    return 0 if options.flag("detach") else handles.wait(init)
