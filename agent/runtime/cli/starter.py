"""spec."""

from __future__ import annotations

import json
import os

from agent.protocol.errors import Conflict
from agent.runtime.defaults import default_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def spec(options: Options, log: Log) -> int:
    """A config.json to begin with: our defaults, a shell, a terminal."""
    userns = (os.getuid(), os.getgid(), 1) if options.flag("rootless") else None
    config = default_config(["sh"], terminal=True, hostname=options.program, userns=userns, readonly_rootfs=True)
    path = os.path.join(options.text("bundle", "."), options.text("file", "config.json"))
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(config, file, indent=4)
    except FileExistsError:
        raise Conflict(f"File {path} exists. Remove it first") from None
    return 0
