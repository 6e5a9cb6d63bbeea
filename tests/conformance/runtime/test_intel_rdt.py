"""config-linux.md, intelRdt: an error where no resctrl is mounted. What is written where one is: test_resctrl."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig
from tests.conformance.runtime.conftest import Runner


@pytest.mark.parametrize("wanted", [{}, {"closID": "c"}, {"l3CacheSchema": "L3:0=f"}, {"enableMonitoring": True}])
def test_without_resctrl_it_is_an_error(runner: Runner, wanted: dict[str, Any]) -> None:
    if os.path.exists("/sys/fs/resctrl/schemata"):
        pytest.skip("resctrl is mounted here")
    with pytest.raises(InvalidConfig, match="resctrl"):
        runner.start("true", change=lambda config: config["linux"].update(intelRdt=wanted))
