"""`python -m controlplane.launcher up|down`: what `wharf up` and `wharf down` become, without the command line's imports."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from agent.protocol.errors import WharfError
from controlplane.home import default_home
from controlplane.launcher.down import down
from controlplane.launcher.layout import Layout
from controlplane.launcher.up import Launcher

USAGE = "usage: python -m controlplane.launcher up [--no-agent] | down   (WHARF_HOME names the home)"


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"wharf: {text}", flush=True)  # noqa: T201  # a program's own output


def main(arguments: list[str]) -> int:
    """0: ended as asked; 1: an error, which was said; 2: wrong usage."""
    layout = Layout(Path(os.environ.get("WHARF_HOME") or default_home()).absolute())
    try:
        match arguments:
            case ["up"] | ["up", "--no-agent"]:
                Launcher(layout, with_agent=len(arguments) == 1, say=say).run()
                say("Down. Containers of the local node go on; `wharf down` ends them.")
            case ["down"]:
                down(layout, say)
            case _:
                print(USAGE, file=sys.stderr)  # noqa: T201  # likewise
                return 2
    except WharfError as error:
        print(f"wharf: {error.detail}", file=sys.stderr)  # noqa: T201  # likewise
        return 1
    except OSError as error:  # a directory that is not ours, a full disk
        print(f"wharf: {error}", file=sys.stderr)  # noqa: T201  # likewise
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
