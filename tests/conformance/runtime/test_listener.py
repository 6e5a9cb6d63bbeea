"""Seccomp notification: the descriptor and the state reach the socket that the profile names."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from agent.runtime.seccomp.profile import default_profile
from tests.conformance.runtime.conftest import Runner


def test_listener_gets_descriptor_and_state(runner: Runner, tmp_path: Path) -> None:
    path = str(tmp_path / "listener.sock")

    def change(config: dict[str, Any]) -> None:
        profile = default_profile()
        profile["syscalls"][0]["names"].remove("mkdir")
        profile["syscalls"].append({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})
        config["linux"]["seccomp"] = {**profile, "listenerPath": path, "listenerMetadata": "berth", "flags": []}

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(20)
        running = runner.start("sh", "-c", "mkdir /dev/shm/x || echo refused", change=change)
        connection, _ = server.accept()
        with connection:
            message, fds, _, _ = socket.recv_fds(connection, 65536, 2)
    state = json.loads(message)
    assert (state["fds"], state["metadata"], state["pid"]) == (["seccompFd"], "berth", running.init.pid)
    assert os.readlink(f"/proc/self/fd/{fds[0]}") == "anon_inode:seccomp notify"
    os.close(fds[0])  # nobody answers any more: the call fails with ENOSYS
    assert "refused" in running.wait().output
