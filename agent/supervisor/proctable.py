"""What /proc says of processes, for `top`."""

from __future__ import annotations

import os

from agent.supervisor.processes import stat_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def top(pids: list[int]) -> list[dict[str, Any]]:
    """One row a process that still lives: {pid, ppid, uid, state, cpu_seconds, start_time (ticks), rss (bytes), command}."""
    rows = []
    for pid in pids:
        fields = stat_fields(pid)
        if fields is None:
            continue
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
            command = _command(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        rows.append(
            {
                "pid": pid,
                "ppid": int(fields[1]),
                "uid": uid,
                "state": fields[0].decode(),
                "cpu_seconds": (int(fields[11]) + int(fields[12])) / _TICK,
                "start_time": int(fields[19]),
                "rss": int(fields[21]) * _PAGE,
                "command": command,
            }
        )
    return rows


def _command(pid: int) -> str:
    for file in ("cmdline", "comm"):  # a kernel thread or a zombie has no command line
        fd = os.open(f"/proc/{pid}/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, 4096)
        finally:
            os.close(fd)
        if data:
            break
    return data.rstrip(b"\0\n").replace(b"\0", b" ").decode("utf-8", "replace")
