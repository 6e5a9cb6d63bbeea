"""A Python inside the container, since what an attacker needs busybox does not have: the host's own, shown read-only."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tests.conformance.runtime.conftest import Runner, Running

PROGRAM = os.path.realpath(sys.executable)


def show_python(config: dict[str, Any]) -> None:
    """Bind what the interpreter loads."""
    places = {path for path in ("/usr", "/lib", "/lib64", sys.base_prefix) if os.path.isdir(path)}
    config["mounts"] += [
        {"destination": path, "type": "bind", "source": os.path.realpath(path), "options": ["rbind", "ro"]}
        for path in sorted(places)
    ]


def start(runner: Runner, rootfs: Path, code: str, change: Any = None, **options: Any) -> Running:
    """`rootfs` has to be the test's own: mount points are made in it."""

    def edit(config: dict[str, Any]) -> None:
        show_python(config)
        if change is not None:
            change(config)

    return runner.start(PROGRAM, "-I", "-S", "-c", code, root=rootfs, change=edit, **options)


def no_landlock(config: dict[str, Any]) -> None:
    config["annotations"] = {}
