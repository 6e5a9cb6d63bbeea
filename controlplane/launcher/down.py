"""`wharf down`: ends the launcher with all its children, then the local node's containers and their supervisor."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable

from agent.protocol.errors import Unavailable
from controlplane.launcher.layout import Layout
from controlplane.launcher.local_agent import LocalAgent

TIMEOUT = 60.0  # seconds for four children of ten each, and a little


def down(layout: Layout, say: Callable[[str], None]) -> None:
    """Returns when everything has ended. Raises Unavailable when something does not."""
    pid = layout.holder()
    if pid is None:
        say(f"Nothing is up on {layout.home}.")
    else:
        _end(pid)
        say("The control plane is down.")
    agent = LocalAgent(layout)
    if os.geteuid() == 0 and agent.joined:
        done = subprocess.run(agent.command("down", *agent.places), check=False, cwd="/", capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"The local node's containers did not all end .\n{done.stderr[-2000:]}")
        say(f"The local node is down: {done.stdout.strip()}.")


def _end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        if not select.select([fd], [], [], TIMEOUT)[0]:
            raise Unavailable(f"The launcher (process {pid}) does not end. Its children die with it: kill -9 {pid}")
    finally:
        os.close(fd)
