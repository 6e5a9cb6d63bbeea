"""Start of the program: parsed; then handed to a supervisor, or sealed and done here."""

from __future__ import annotations

import os
import sys

from agent.runtime.cli import arguments

PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
_CALL = "from agent.runtime.cli.entry import main; main(sealed=True)"
SEALED_START = f"import sys; sys.path.insert(0, sys.argv.pop(1)); del sys.argv[0]; {_CALL}"
ENTERS = frozenset(("create", "run", "exec", "restore"))  # commands whose process comes near a container


def main(sealed: bool = False) -> None:
    """Console script `wharf-runtime`. `sealed`: this is the second start, from a sealed copy (see `_seal`)."""
    program = _name()
    try:
        options = arguments.parse(program, sys.argv[1:])
    except arguments.UsageError as error:
        _misused(program, error)
    _answer(options)
    if options.command in ENTERS and not sealed:
        from agent.runtime.cli import thin

        status = thin.attempt(options)
        if status is not None:
            sys.stdout.flush()
            os._exit(status)
        _seal()
    import gc

    gc.disable()  # a short life: what a collection finds is gone sooner by the exit
    from agent.runtime.cli import commands

    try:
        status = commands.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        status = 1  # who read our output has gone
    sys.stderr.flush()
    os._exit(status)  # the interpreter's own tidying up takes 3 ms


def _name() -> str:
    """What messages call the program: a link to it may have another name."""
    name = os.path.basename(sys.argv[0])
    return "wharf-runtime" if name.endswith(".py") or name == "-c" else name


def _misused(program: str, error: arguments.UsageError) -> None:
    from agent.runtime.cli import helptext

    if error.status != 3:  # an unknown command has no page
        sys.stderr.write(helptext.page(program, error.command))
    sys.stderr.write(f"{error.detail}\n")
    sys.stderr.flush()
    os._exit(error.status)


def _answer(options: arguments.Options) -> None:
    """--help and --version, and no command at all, need nothing else."""
    if options.flag("version"):
        from agent.runtime.cli import version

        text = version.text(options.program)
    elif options.flag("help") or not options.command:
        from agent.runtime.cli import helptext

        text = helptext.page(options.program, options.command)
    else:
        return
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(0)


def _seal() -> None:
    """Run from a sealed copy of the interpreter: a container must not reach the host's through /proc/<pid>/exe (CVE-2019-5736).

    The second start leaves out site and environment, and so costs little.
    """
    from agent.sys import memfd

    if memfd.runs_sealed():
        return
    executable = os.path.realpath(sys.executable)
    fd = memfd.sealed_copy(executable, "wharf-runtime")
    words = [executable, "-I", "-S", "-c", SEALED_START, PACKAGE_ROOT, _name(), *sys.argv[1:]]
    os.execve(fd, words, os.environ)  # noqa: S606  # ourselves
