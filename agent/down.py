"""`wharf-agent down`: the end of everything this node runs: containers, their supervisor, their network and cgroups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from agent.network.manager import Networks
from agent.supervisor.client import Supervisor
from agent.supervisor.start import SupervisorAway

GRACE = 10.0  # seconds from SIGTERM to SIGKILL of each container
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_TIMEOUT = 5.0  # seconds for the supervisor's last process to leave its cgroup


async def down(home: Path, run: Path, cgroup_parent: str, network_prefix: str) -> int:
    """How many containers were stopped. The agent itself must have ended: it would start its tasks again."""
    stopped = await _stop_containers(run)
    if (home / "networks").is_dir():
        await asyncio.to_thread(Networks(str(home / "networks"), str(run), prefix=network_prefix).teardown)
    await asyncio.to_thread(_remove_cgroups, cgroup_parent.strip("/"))
    shutil.rmtree(run, ignore_errors=True)
    return stopped


async def _stop_containers(run: Path) -> int:
    try:
        supervisor = await Supervisor.connect(str(run))
    except SupervisorAway:
        return 0
    try:
        live = [record["id"] for record in await supervisor.list() if record["state"] in {"running", "paused", "restarting"}]
        await asyncio.gather(*(supervisor.stop(container, signal.SIGTERM, GRACE) for container in live))
        await supervisor.shutdown()
    finally:
        await supervisor.close()
    return len(live)


def _remove_cgroups(name: str) -> None:
    """Removes the node's cgroup in every hierarchy; one that still has a process after CGROUP_TIMEOUT stays."""
    if not name:
        return
    deadline = time.monotonic() + CGROUP_TIMEOUT
    for top in (CGROUPS / name, *(hierarchy / name for hierarchy in CGROUPS.iterdir())):
        while top.is_dir() and time.monotonic() < deadline:
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # EBUSY: a process is on its way out
                    os.rmdir(directory)
            if top.is_dir():
                time.sleep(0.05)
