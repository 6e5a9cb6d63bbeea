"""Range of downloads (RFC 9110, 14) and Content-Range of upload chunks (distribution-spec: `<first>-<last>`, without a unit)."""

from __future__ import annotations

import re

from registry.errors import RangeInvalid

_BYTES = re.compile(r"bytes=(\d*)-(\d*)")
_CHUNK = re.compile(r"(?:bytes[ =])?(\d+)-(\d+)(?:/(?:\d+|\*))?")


def download(header: str, size: int) -> tuple[int, int] | None:
    """(offset, count) of a one-range request; None = send the whole blob. Raises RangeInvalid when nothing of it is there.

    Several ranges and other units are answered with the whole blob, as RFC 9110 allows.
    """
    match = _BYTES.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        count = min(int(last), size)
        start, end = size - count, size - 1
    else:
        start = int(first)
        end = min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            raise RangeInvalid(f"the range {header[:60]!r} ends before it begins")
    if start >= size or end < start:
        raise RangeInvalid(f"the range {header[:60]!r} lies beyond the {size} bytes of the blob")
    return start, end - start + 1


def chunk(header: str) -> tuple[int, int]:
    """(first, last) of an upload's Content-Range. Raises RangeInvalid."""
    match = _CHUNK.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise RangeInvalid(f"Content-Range {header[:60]!r} is not <first>-<last>")
    return int(match[1]), int(match[2])
