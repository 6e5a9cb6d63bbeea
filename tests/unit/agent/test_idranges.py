"""Ranges of ids by tenant: apart, kept, taken back last."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.containers.errors import IdRangesExhausted
from agent.containers.idranges import SIZE, IdRanges, NodeRange
from agent.protocol.codec import InvalidSpec


def nobody() -> set[str]:
    return set()


def test_a_tenant_keeps_its_range_over_a_restart(tmp_path: Path) -> None:
    ranges = IdRanges(tmp_path / "ranges", NodeRange(SIZE, 3))
    assert [ranges.of(name, nobody) for name in ("a", "b", "a")] == [(SIZE, SIZE), (2 * SIZE, SIZE), (SIZE, SIZE)]
    again = IdRanges(tmp_path / "ranges", NodeRange(SIZE, 3))
    assert [again.of(name, nobody)[0] for name in ("c", "b", "a")] == [3 * SIZE, 2 * SIZE, SIZE]


def test_a_full_range_takes_from_who_has_no_container(tmp_path: Path) -> None:
    ranges = IdRanges(tmp_path / "ranges", NodeRange(SIZE, 2))
    ranges.of("a", nobody)
    ranges.of("b", nobody)
    assert ranges.of("c", lambda: {"a"}) == (2 * SIZE, SIZE)
    with pytest.raises(IdRangesExhausted, match="--userns-range"):
        ranges.of("b", lambda: {"a", "c"})


def test_another_setting_hands_out_nothing_twice(tmp_path: Path) -> None:
    IdRanges(tmp_path / "ranges", NodeRange(SIZE, 2)).of("a", nobody)
    moved = IdRanges(tmp_path / "ranges", NodeRange(SIZE + 100, 4))
    assert moved.of("b", nobody)[0] == SIZE + 100 + SIZE  # the first overlaps with a's
    assert moved.of("a", nobody)[0] == SIZE + 100 + 2 * SIZE  # its own is no longer the node's


@pytest.mark.parametrize("text", ["x", "100000", "0:65536", "100000:65535", "4294900000:655360"])
def test_ranges_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="range"):
        NodeRange.parse(text)
