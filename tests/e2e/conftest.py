"""Two workers share these stories, each in a network of its own."""

from __future__ import annotations

import os

import pytest

from tests.nodes import isolate


@pytest.fixture(scope="session", autouse=True)
def _apart() -> None:
    """From a worker's first story on: nobody else takes the ports that one has found free."""
    if os.geteuid() == 0:
        isolate()
