"""The agent beside the launcher, known by its command line alone."""

from __future__ import annotations

import hashlib
import os
import sys

from controlplane.home import default_home
from controlplane.launcher.layout import Layout


class LocalAgent:
    """Places and names of the local node.

    A home that is not the default one gets a run directory, a cgroup and network names of its own, so that two on one machine (a
    trial beside the real one) never touch each other's containers.
    """

    def __init__(self, layout: Layout) -> None:
        self.home = layout.agent
        self.places: list[str] = []
        if layout.home != default_home():
            mark = hashlib.sha256(str(layout.home).encode()).hexdigest()[:4]
            # an interface's name has at most 15 characters
            self.places = [
                *("--run", f"/run/wharfinger-{mark}", "--network-prefix", f"wf{mark}", "--cgroup-parent", f"/wharfinger-{mark}")
            ]

    @property
    def guarded(self) -> list[str]:
        """The node port is for hosts: containers beside the control plane must not reach it."""
        return ["--protect-port", os.environ.get("WHARF_NODE_PORT") or "8444"]

    @property
    def joined(self) -> bool:
        """Does it belong to a cluster?"""
        return (self.home / "identity" / "cluster.json").exists()

    def command(self, verb: str, *arguments: str) -> list[str]:
        """`wharf-agent --home … verb …`."""
        return [sys.executable, "-m", "agent", "--home", str(self.home), verb, *arguments]
