"""Classes of service, in a plain directory that stands for resctrl."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.runtime import resctrl
from agent.runtime.errors import InvalidConfig


def test_refused_where_there_is_none() -> None:
    with pytest.raises(InvalidConfig, match="resctrl"):
        resctrl.Class({}, "c1", root="")


def test_existing_class_must_have_the_same_shares(tmp_path: Path) -> None:
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold/schemata").write_text("    L3:0=007f0;1=1f\n    MB:0=20\n")
    (tmp_path / "gold/tasks").write_text("")
    resctrl.Class({"closID": "gold", "l3CacheSchema": "L3:0=7f0"}, "c1", str(tmp_path)).assign(7)
    assert (tmp_path / "gold/tasks").read_text() == "7"
    with pytest.raises(InvalidConfig, match="asks for MB:0=30"):
        resctrl.Class({"closID": "gold", "memBwSchema": "MB:0=30"}, "c1", str(tmp_path)).assign(7)


def test_class_must_exist_without_schemata_and_only_our_own_is_removed(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="does not exist"):
        resctrl.Class({"closID": "gold"}, "c1", str(tmp_path)).assign(7)
    (tmp_path / "c1").mkdir()
    (tmp_path / "gold").mkdir()
    resctrl.Class({}, "c1", str(tmp_path)).remove()
    resctrl.Class({"closID": "gold"}, "c1", str(tmp_path)).remove()
    assert [path.name for path in tmp_path.iterdir()] == ["gold"]
