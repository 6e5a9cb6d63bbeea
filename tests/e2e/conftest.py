"""Two workers share these stories: every file is one worker's, and the browser's directory with its one product is too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.nodes import isolate

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def _apart() -> None:
    """A network of the worker's own from its first test on: nobody else takes the ports that a story has found free."""
    if os.geteuid() == 0:
        isolate()


@pytest.hookimpl(tryfirst=True)  # before xdist, which writes the group into the name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(HERE).parts[0]))
