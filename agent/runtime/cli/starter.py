"""spec."""

from __future__ import annotations

import json
import os

from agent.protocol.errors import Conflict
from agent.runtime.cgroup import hierarchies
from agent.runtime.defaults import PATH, default_config
from agent.runtime.rootless import HOSTS_SYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
OPEN_FILES = 1024


def spec(options: Options, log: Log) -> int:
    """A config.json to begin with: a shell on a terminal. As both peers write it, for what edits it: without a filter, a lock,
    limits and sysctls, and on cgroup v1 without a cgroup namespace. What the product itself starts has all of them."""
    config = _starter(options.program, options.flag("rootless"))
    path = os.path.join(options.text("bundle", "."), options.text("file", "config.json"))
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(config, file, indent=4)
    except FileExistsError:
        raise Conflict(f"File {path} exists. Remove it first") from None
    return 0


def _starter(hostname: str, rootless: bool) -> dict[str, Any]:
    userns = (os.getuid(), os.getgid(), 1) if rootless else None
    config = default_config(
        ["sh"],
        env=[PATH, "TERM=xterm"],
        terminal=True,
        hostname=hostname,
        userns=userns,
        readonly_rootfs=True,
        capabilities=CAPABILITIES,
        network=None if rootless else "",
    )
    config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": OPEN_FILES, "soft": OPEN_FILES}]
    linux = config["linux"]
    del linux["seccomp"]
    linux["resources"].pop("pids")
    linux.pop("sysctl", None)
    config.pop("annotations", None)
    if hierarchies().v1:
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "cgroup"]
    if rootless:
        _for_rootless(config)
    return config


def _for_rootless(config: dict[str, Any]) -> None:
    """One id is mapped, the network is the host's, and there may be no right to any cgroup."""
    del config["linux"]["resources"]
    for mount in config["mounts"]:
        mount["options"] = [option for option in mount.get("options", []) if option != "gid=5"]
        if mount["destination"] == "/sys":
            mount.update(HOSTS_SYS)
