"""`wharf-runtime`: the OCI runtime's command line, with the options of runc and crun."""

from agent.runtime.cli.entry import main

__all__ = ["main"]
