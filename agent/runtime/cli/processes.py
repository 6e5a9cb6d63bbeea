"""ps."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time

from agent.protocol.errors import Unavailable
from agent.runtime.cli import handles, report
from agent.runtime.errors import RuntimeFailed
from agent.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log

_HEAD = "UID        PID  PPID  C STIME TTY          TIME CMD\n"
_DAY = 86400


def processes(options: Options, log: Log) -> int:
    """As `ps -ef`, or what the machine's own ps prints of these processes with the options that were given."""
    wanted = report.form(options)
    pids = StateDirectory(handles.root(options), options.id).pids()
    if wanted == "json":
        report.show(pids, None)
    elif len(options.words) > 1:
        sys.stdout.write(_filtered(options.words[1:], {str(pid) for pid in pids}))
    else:
        sys.stdout.write(_HEAD + "".join(map(_row, pids)))
    return 0


def _filtered(words: list[str], pids: set[str]) -> str:
    """Raises Unavailable without a ps, RuntimeFailed when it fails or its output has no column PID."""
    try:
        done = subprocess.run(["ps", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable("options for ps need the program ps (package procps); leave them out") from None
    if done.returncode:
        raise RuntimeFailed(f"ps: {done.stderr.strip()}", stage="ps", errno=0)
    head, *rows = done.stdout.splitlines()
    try:
        column = head.split().index("PID")
    except ValueError:
        raise RuntimeFailed("ps printed no column PID; choose options that show it", stage="ps", errno=0) from None
    return "\n".join([head, *(row for row in rows if row.split()[column] in pids)]) + "\n"


def _row(pid: int) -> str:
    """From proc_pid_stat(5); "" when it ended meanwhile."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
        with open(f"/proc/{pid}/cmdline", "rb") as file2:
            command = file2.read().replace(b"\0", b" ").decode(errors="replace").strip() or f"[{name}]"
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = rest.split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) // ticks
    started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / ticks
    share = min(99, int(100 * used / max(1.0, time.time() - started)))
    moment = time.strftime("%H:%M" if time.time() - started < _DAY else "%b%d", time.localtime(started))
    spent = f"{used // 3600:02}:{used // 60 % 60:02}:{used % 60:02}"
    return f"{_user(uid):<8} {pid:>5} {fields[1]:>5} {share:>2} {moment:>5} {_terminal(int(fields[4])):<8} {spent} {command}\n"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _terminal(device: int) -> str:
    """Unix98 slaves have the majors 136 to 143."""
    major, minor = os.major(device), os.minor(device)
    if 136 <= major < 144:
        return f"pts/{(major - 136) * 256 + minor}"
    return f"tty{minor}" if major == 4 else "?"
