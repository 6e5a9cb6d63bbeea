from __future__ import annotations

import pytest

from registry.errors import RangeInvalid
from registry.v2.ranges import chunk, download


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=500-1499", (500, 1000)),
        ("bytes=500-", (500, 1548)),
        ("bytes=-500", (1548, 500)),
        ("bytes=2000-5000", (2000, 48)),
        ("bytes=0-0", (0, 1)),
        ("bytes=-9999", (0, 2048)),
        ("bytes=0-1,5-6", None),
        ("lines=1-2", None),
        ("bytes=-", None),
        ("nonsense", None),
    ],
)
def test_download(header: str, part: tuple[int, int] | None) -> None:
    assert download(header, 2048) == part


@pytest.mark.parametrize("header", ["bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=-0"])
def test_download_outside(header: str) -> None:
    with pytest.raises(RangeInvalid):
        download(header, 2048)


def test_nothing_of_an_empty_blob_is_a_range() -> None:
    with pytest.raises(RangeInvalid):
        download("bytes=0-", 0)


@pytest.mark.parametrize(("header", "want"), [("0-99", (0, 99)), ("bytes 5-9/*", (5, 9)), ("bytes=5-9", (5, 9)), ("7-7", (7, 7))])
def test_chunk(header: str, want: tuple[int, int]) -> None:
    assert chunk(header) == want


@pytest.mark.parametrize("header", ["", "5", "9-5", "a-b", "-5", "5-"])
def test_chunk_refused(header: str) -> None:
    with pytest.raises(RangeInvalid):
        chunk(header)
