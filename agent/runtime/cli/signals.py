"""kill."""

from __future__ import annotations

import os
import signal

from agent.runtime.cli.delete import chosen
from agent.runtime.errors import InvalidConfig, WrongState
from agent.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def kill(options: Options, log: Log) -> int:
    number = signal_number(options.words[1] if len(options.words) > 1 else "TERM")
    for directory in chosen(options):
        if options.flag("all"):
            kill_all(directory, number)
        else:
            _kill_init(directory, number)
    return 0


def _kill_init(directory: StateDirectory, number: int) -> None:
    state = directory.state()
    if not directory.alive():
        raise WrongState("container not running")
    if number == signal.SIGKILL and not _own_pids(directory):
        kill_all(directory, number)  # its other processes would not end with the first
    os.kill(state["pid"], number)
    if number == signal.SIGKILL and directory.cgroup().frozen():
        directory.cgroup().thaw()  # a task frozen by v1 dies only after the thaw


def _own_pids(directory: StateDirectory) -> bool:
    return any(entry.get("type") == "pid" for entry in directory.config()["linux"].get("namespaces") or ())


def kill_all(directory: StateDirectory, number: int) -> None:
    cgroup = directory.cgroup()
    if number == signal.SIGKILL and cgroup.exists():
        cgroup.kill()
        return
    for pid in directory.pids():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # ended meanwhile


def signal_number(text: str) -> int:
    """From a number, "TERM", "SIGTERM", "RTMIN+1". Raises InvalidConfig."""
    if text.isdigit():
        if int(text) < 65:  # 0 asks whether it may be sent
            return int(text)
    else:
        name = text.upper()
        name = name if name.startswith("SIG") else "SIG" + name
        base, _, offset = name.partition("+") if "+" in name else name.partition("-")
        found = signal.__dict__.get(base)
        if isinstance(found, signal.Signals) and (not offset or offset.isdigit()):
            number = int(found) + (-1 if "-" in name else 1) * int(offset or 0)
            if 0 < number < 65:
                return number
    raise InvalidConfig(f'unknown signal "{text}"')
