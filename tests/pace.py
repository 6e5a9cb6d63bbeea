"""Time limits of tests: they bound a failure, no more, so a machine that is known to be slow multiplies them."""

from __future__ import annotations

import os

SLOWNESS = float(os.environ.get("WHARF_TEST_SLOWNESS") or 1)


def patience(seconds: float) -> float:
    """`seconds` of an ordinary machine on this one."""
    return seconds * SLOWNESS
