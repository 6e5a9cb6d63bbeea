"""Pressure that a cgroup's processes feel: a trigger on each of its pressure files (kernel, Documentation/accounting/psi.rst)."""

from __future__ import annotations

import os

WINDOW = 2_000_000  # µs; without CAP_SYS_RESOURCE the kernel takes multiples of 2 s alone
# µs of the window in which some process waited. A processor is shared by design; memory and disks are not meant to be waited for.
THRESHOLDS = {"cpu": WINDOW // 2, "memory": WINDOW // 10, "io": WINDOW // 10}


def open_triggers(directory: str | None) -> dict[int, str]:
    """Descriptors, the caller's to close, and the resource of each: POLLPRI tells that its threshold was passed, at most once a
    window. {} without a v2 cgroup, or where the kernel keeps no account of pressure."""
    found: dict[int, str] = {}
    for resource, threshold in THRESHOLDS.items() if directory else ():
        try:
            fd = os.open(f"{directory}/{resource}.pressure", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # built without, switched off, or not ours to write
        try:
            os.write(fd, b"some %d %d\0" % (threshold, WINDOW))
        except OSError:
            os.close(fd)
        else:
            found[fd] = resource
    return found
