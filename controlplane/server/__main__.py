"""`python -m controlplane.server`: a web process, configured by the environment."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys

import uvloop


def main() -> int:
    """Runs until SIGTERM or SIGINT; 0 is a normal stop, 1 a port that is taken or a home that is not prepared."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    # By name: the application assembles every room, this one included.
    application = importlib.import_module("controlplane.asgi").application
    from controlplane.server import web

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(web.main(application))
    except OSError as error:
        print(f"wharf web: {error}", file=sys.stderr)  # noqa: T201  # the launcher shows it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
