"""Start as `python -I -S …/agent/supervisor/__main__.py --root RUNDIR --state STATEDIR --cgroup-parent PATH`."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rsplit("/", 3)[0])
    from agent.supervisor.main import main

    sys.exit(main(sys.argv))
