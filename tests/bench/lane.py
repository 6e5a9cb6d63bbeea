"""A small process that starts programs and times them, so that every peer is started by the same hand.

    python -I -S lane.py [--hide-v2]        one JSON request a line: {"argv": [...]}; one answer: {"seconds", "cpu", "status"}

`cpu` is that of the program and of every descendant it waited for (wait4). `--hide-v2`: in a mount namespace of its own, with
/dev/null over the hybrid hierarchy's cgroup.controllers; Debian's crun refuses the hybrid layout otherwise.
"""

import ctypes
import json
import os
import sys
import time

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
CONTROLLERS = b"/sys/fs/cgroup/unified/cgroup.controllers"


def hide_v2() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (
        libc.unshare(CLONE_NEWNS),
        libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None),
        libc.mount(b"/dev/null", CONTROLLERS, None, MS_BIND, None) if os.path.exists(CONTROLLERS) else 0,
    ):
        if done != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    if "--hide-v2" in sys.argv:
        hide_v2()
    null = os.open("/dev/null", os.O_RDWR)
    streams = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1)]
    print("ready", flush=True)
    for line in sys.stdin:
        argv = json.loads(line)["argv"]
        began = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=streams)
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - began
        cpu = usage.ru_utime + usage.ru_stime
        print(json.dumps({"seconds": seconds, "cpu": cpu, "status": os.waitstatus_to_exitcode(status)}), flush=True)


main()
