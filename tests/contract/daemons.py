"""Programs that put themselves into the background, such as fuse-overlayfs: none outlives its test."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.sys import process

PATIENCE = 20.0


@contextmanager
def adopted() -> Iterator[None]:
    """What goes to the background in the block becomes our child, and is gone and reaped at its end."""
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    before = _children()
    try:
        yield
        deadline = time.monotonic() + PATIENCE
        while left := _children() - before:
            for pid in left:
                os.waitpid(pid, os.WNOHANG)
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.01)  # polling with a deadline: no event tells of another's child
    finally:
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 0)


def _children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
