"""Hand a container's seccomp notification descriptor to the program that answers it (runtime-spec, "container process state")."""

from __future__ import annotations

import os

from agent.runtime import spec
from agent.runtime.errors import RuntimeFailed
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.plan import Plan


def deliver(plan: Plan, pid: int, pidfd: int, number: int) -> None:
    """Fetch descriptor `number` of the process and send it, with the state as JSON, to linux.seccomp.listenerPath.

    Raises RuntimeFailed when nobody listens there.
    """
    import json
    import socket

    profile = plan.config["linux"]["seccomp"]
    state = {
        "ociVersion": spec.VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": profile.get("listenerMetadata", ""),
        "state": {"ociVersion": spec.VERSION, "id": plan.id, "status": "creating", "pid": pid, "bundle": plan.bundle},
    }
    fd = process.getfd(pidfd, number)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(profile["listenerPath"])
            socket.send_fds(sock, [json.dumps(state).encode()], [fd])
    except OSError as error:
        raise RuntimeFailed(
            f"failed to connect with seccomp agent: {profile['listenerPath']} cannot be reached: {error.strerror}",
            stage="seccomp",
            errno=error.errno or 0,
        ) from error
    finally:
        os.close(fd)
