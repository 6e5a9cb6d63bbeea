"""`python -I -S …/agent/runtime/cli/__main__.py`, the fast start, or `python -m agent.runtime.cli`."""

import sys

if __name__ == "__main__":
    if not __package__:
        sys.path.insert(0, __file__.rsplit("/", 4)[0])
    from agent.runtime.cli.entry import main

    main()
