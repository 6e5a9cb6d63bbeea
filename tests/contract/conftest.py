"""Fixtures of the seams' suites."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sys import process

_PATIENCE = 20.0


@pytest.fixture
def adopted_daemons() -> Iterator[None]:
    """Programs that go to the background become our children, and are gone before the next test."""
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    before = _children()
    try:
        yield
        deadline = time.monotonic() + _PATIENCE
        while left := _children() - before:
            for pid in left:
                os.waitpid(pid, os.WNOHANG)
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.01)  # polling with a deadline: no event tells of another's child
    finally:
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 0)


def _children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
