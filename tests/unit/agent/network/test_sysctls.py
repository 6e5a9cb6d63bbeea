"""What we change on the node is put back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.network.errors import NetworkFailed
from agent.network.sysctls import FORWARD, Sysctls


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ipv4").mkdir()
    (tmp_path / FORWARD).write_text("0\n")
    return tmp_path


def test_the_first_value_is_remembered_over_restarts(root: Path) -> None:
    record = str(root / "sysctl.json")
    Sysctls(record, str(root)).set(FORWARD, "1")
    assert (root / FORWARD).read_text().startswith("1")
    again = Sysctls(record, str(root))
    assert again.we_forward
    (root / FORWARD).write_text("0\n")  # somebody turned it off meanwhile
    again.set(FORWARD, "1")
    again.restore()
    assert (root / FORWARD).read_text().startswith("0")
    assert not Sysctls(record, str(root)).we_forward


def test_a_node_that_was_a_router_stays_one(root: Path) -> None:
    (root / FORWARD).write_text("1\n")
    sysctls = Sysctls(str(root / "sysctl.json"), str(root))
    sysctls.set(FORWARD, "1")
    assert not sysctls.we_forward
    sysctls.restore()
    assert (root / FORWARD).read_text() == "1\n"


def test_a_value_that_cannot_be_set_says_so(root: Path) -> None:
    with pytest.raises(NetworkFailed, match=r"absent/route_localnet to 1: No such file"):
        Sysctls(str(root / "sysctl.json"), str(root)).set_link("absent", "ipv4/conf/…/route_localnet", "1")
