"""exec."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from agent.runtime.cli import lifecycle
from agent.runtime.container import Stdio
from agent.runtime.errors import InvalidConfig, WrongState
from agent.runtime.exec import exec_in
from agent.runtime.state import StateDirectory


def run(options: argparse.Namespace) -> int:
    directory = StateDirectory(options.root, options.id)
    if not directory.alive():
        raise WrongState("cannot exec in a stopped container")
    plan, state = directory.plan(), directory.state()
    process = _process(options, plan.config["process"])
    terminal = bool(process.get("terminal"))
    if terminal and options.detach and not options.console_socket:
        raise InvalidConfig("cannot allocate tty if the process is detached without setting console socket")
    init = exec_in(
        plan,
        state["pid"],
        process,
        Stdio(0, 1, 2, terminal=terminal),
        start_time=state["start_time"],
        keep_fds=options.preserve_fds + int(os.environ.get("LISTEN_FDS") or 0),
        ignore_paused=options.ignore_paused,
    )
    if init.console_fd >= 0 and options.console_socket:
        lifecycle.hand_over(init, options.console_socket)
    if options.pid_file:
        with open(options.pid_file, "w", encoding="ascii") as file:
            file.write(str(init.pid))
    return 0 if options.detach else lifecycle.wait(init)


def _process(options: argparse.Namespace, base: dict[str, Any]) -> dict[str, Any]:
    """The init's process with what the command line changes, or the file of -p as it is."""
    if options.process:
        with open(options.process, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        return found
    if not options.args:
        raise InvalidConfig("process args cannot be empty")
    args = options.args[1:] if options.args[0] == "--" else options.args
    process = {**base, "args": args, "terminal": options.tty, "env": [*(base.get("env") or ()), *options.env]}
    process.pop("consoleSize", None)
    if options.cwd:
        process["cwd"] = options.cwd
    if options.no_new_privs:
        process["noNewPrivileges"] = True
    user = dict(base.get("user") or {})
    if options.user:
        uid, _, gid = options.user.partition(":")
        user["uid"] = _number(uid)
        if gid:
            user["gid"] = _number(gid)
    user["additionalGids"] = [*(user.get("additionalGids") or ()), *options.additional_gids]
    process["user"] = user
    if options.cap:
        sets = dict(base.get("capabilities") or {})
        for name in ("bounding", "effective", "permitted"):
            sets[name] = [*(sets.get(name) or ()), *options.cap]
        process["capabilities"] = sets
    return process


def _number(text: str) -> int:
    if not text.isdigit():
        raise InvalidConfig(f"user {text!r} is not a number; exec takes uid[:gid]")
    return int(text)
