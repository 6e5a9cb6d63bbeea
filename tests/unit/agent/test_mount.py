"""`Mount` is written by hand where collections.namedtuple would do: it must be the same to its users."""

from __future__ import annotations

import pytest

from agent.sys.mount import Mount

MOUNT = Mount("bind", "/data", "srv", ("rbind", "ro"))


def test_its_parts_have_names_and_an_order() -> None:
    assert (MOUNT.type, MOUNT.source, MOUNT.target, MOUNT.options) == ("bind", "/data", "srv", ("rbind", "ro"))
    kind, source, target, options = MOUNT
    assert (kind, source, target, options) == MOUNT
    assert list(MOUNT) == ["bind", "/data", "srv", ("rbind", "ro")]


def test_it_takes_its_parts_by_name_and_wants_all() -> None:
    assert Mount(type="bind", source="/data", target="srv", options=("rbind", "ro")) == MOUNT
    with pytest.raises(TypeError):
        Mount("bind", "/data", "srv")  # type: ignore[call-arg]  # what is tested


def test_a_part_is_replaced_in_a_copy_alone() -> None:
    other = MOUNT._replace(options=("rbind",))
    assert other == Mount("bind", "/data", "srv", ("rbind",))
    assert isinstance(other, Mount)
    assert MOUNT.options == ("rbind", "ro")
    with pytest.raises(AttributeError):
        MOUNT.source = "/etc"  # type: ignore[misc]  # what is tested
