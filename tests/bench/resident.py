"""Our runtime resident in a process, without a supervisor: what the library itself costs.

    python -I -S resident.py ROOT BUNDLE      one line a request; one answer: {"seconds", "removed", "cpu"}

`seconds` to the exit, `removed` until nothing is left of the container; `cpu` of both, with children.
"""

import gc
import json
import os
import resource
import sys
import time

sys.path.insert(0, sys.argv[1])

from agent.runtime import container, plan
from agent.runtime.container import Stdio


def main() -> None:
    bundle = sys.argv[2]
    with open(f"{bundle}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    null = os.open("/dev/null", os.O_RDWR)
    made = plan.compile(config, id="resident", rootfs=None, cgroup_parent="", bundle=bundle)
    gc.freeze()
    gc.disable()
    print("ready", flush=True)
    for _ in sys.stdin:
        used, began = cpu(), time.perf_counter()
        init = container.create(made, Stdio(null, null, null))
        init.start()
        result = os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED)
        seconds = time.perf_counter() - began
        os.close(init.pidfd)
        init.cgroup.remove(seconds=10.0)
        removed = time.perf_counter() - began
        status = result.si_status if result else 1
        print(json.dumps({"seconds": seconds, "removed": removed, "cpu": cpu() - used, "status": status}), flush=True)


def cpu() -> float:
    """Microseconds count, so not os.times: its clock ticks a hundred times a second."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


main()
