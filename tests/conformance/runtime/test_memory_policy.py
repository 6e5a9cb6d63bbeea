"""config-linux.md, memoryPolicy: the NUMA policy of the program (set_mempolicy(2)), as the kernel shows it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agent.runtime.errors import InvalidConfig, RuntimeFailed
from tests.conformance.runtime.conftest import Runner

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/numa_maps"), reason="the kernel has no NUMA")


def policy(mode: str, nodes: str = "", *flags: str) -> Any:
    wanted = {"mode": mode, "nodes": nodes, "flags": list(flags)}
    return lambda config: config["linux"].update(memoryPolicy={key: value for key, value in wanted.items() if value})


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (policy("MPOL_DEFAULT"), "default"),
        (policy("MPOL_BIND", "0"), "bind:0"),
        (policy("MPOL_INTERLEAVE", "0"), "interleave:0"),
        (policy("MPOL_PREFERRED", "0"), "prefer:0"),
        (policy("MPOL_PREFERRED_MANY", "0"), "prefer (many):0"),
        (policy("MPOL_LOCAL"), "local"),
        (policy("MPOL_BIND", "0", "MPOL_F_STATIC_NODES"), "bind=static:0"),
        (policy("MPOL_BIND", "0", "MPOL_F_RELATIVE_NODES"), "bind=relative:0"),
    ],
)
def test_the_kernel_has_it(runner: Runner, change: Any, shown: str) -> None:
    lines = runner.run("cat", "/proc/self/numa_maps", change=change).lines
    assert any(f" {shown} " in line for line in lines), lines[:3]


def test_nodes_that_are_not_there(runner: Runner) -> None:
    with pytest.raises(RuntimeFailed, match="Invalid argument"):
        runner.start("true", change=policy("MPOL_BIND", "1000"))


def test_a_list_that_is_none(runner: Runner) -> None:
    with pytest.raises(InvalidConfig, match=r"memoryPolicy.nodes"):
        runner.plan("true", change=policy("MPOL_BIND", "0-"))
