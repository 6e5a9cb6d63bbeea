"""A supervisor over plain processes that writes down what it does to disk, clients and zombies, and dies before a chosen step.

python dying.py FLAG STEP LOG --root … --state … --cgroup-parent …

Steps count from when FLAG is there; at number STEP it sends itself SIGKILL. STEP -1: it lives. LOG gets a line a step, before it.
"""

from __future__ import annotations

import os
import signal
import sys

sys.path.insert(0, __file__.rsplit("/", 5)[0])

from agent.supervisor import wire
from agent.supervisor.main import main
from tests.unit.agent.supervisor.plain import PlainRuntime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Steps:
    def __init__(self, flag: str, last: int, log: str) -> None:
        self.flag = flag
        self.last = last
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.count = 0

    def watch(self, name: str, call: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            if counts(*args) and os.path.exists(self.flag):
                os.write(self.log, name.encode() + b"\n")
                if self.count == self.last:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.count += 1
            return call(*args)

        return watched


def always(*_args: Any) -> bool:
    return True


def reaps(_kind: int, _which: int, options: int) -> bool:
    return not options & os.WNOWAIT


if __name__ == "__main__":
    steps = Steps(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    os.pwrite = steps.watch("write", os.pwrite, always)
    os.fdatasync = steps.watch("sync", os.fdatasync, always)
    os.waitid = steps.watch("reap", os.waitid, reaps)
    wire.send = steps.watch("tell", wire.send, always)
    sys.exit(main([sys.argv[0], *sys.argv[4:]], PlainRuntime))
