"""Start of the program: sealed first, then parsed, then one command."""

from __future__ import annotations

import gc
import os
import sys

from agent.sys import memfd

PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SEALED_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agent.runtime.cli.entry import main; main()"
CHANGES_STATE = frozenset(("create", "run", "exec", "restore"))


def main() -> None:
    """Console script `wharf-runtime`."""
    gc.disable()  # a short life: what a collection finds is gone sooner by the exit
    if CHANGES_STATE.intersection(sys.argv[1:]):
        _seal()
    from agent.runtime.cli import commands

    try:
        status = commands.run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        status = 1  # who read our output has gone
    sys.stderr.flush()
    os._exit(status)  # the interpreter's own tidying up takes 3 ms


def _seal() -> None:
    """Run from a sealed copy of the interpreter: a container must not reach the host's through /proc/<pid>/exe (CVE-2019-5736).

    The second start leaves out site and environment, and so costs little.
    """
    if memfd.runs_sealed():
        return
    executable = os.path.realpath(sys.executable)
    fd = memfd.sealed_copy(executable, "wharf-runtime")
    os.execve(fd, [executable, "-I", "-S", "-c", SEALED_START, PACKAGE_ROOT, *sys.argv[1:]], os.environ)  # noqa: S606  # ourselves
