"""Sizes, shares of cores, durations, times and ports as people write and read them. Every parser raises Failure (wrong usage)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from controlplane.cli.session import Failure

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_DURATION = re.compile(r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
_UNITS = ("", "k", "m", "g", "t")


def parse_size(text: str) -> int:
    """ "512m", "1.5GiB", "1048576" -> bytes, in powers of 1024 as Docker's --memory."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Failure(f"{text!r} is no size: write a number of bytes, or one with k, m, g or t, such as 512m.", 2)
    return int(float(match[1]) * 1024 ** _UNITS.index(match[2].lower()))


def parse_cpus(text: str) -> int:
    """ "0.5" cores -> 500000000 nano-CPUs."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10_000:
        raise Failure(f"{text!r} is no number of cores: write one such as 0.5 or 2.", 2)
    return round(value * 1e9)


def parse_duration(text: str) -> float:
    """ "90", "90s", "1h30m", "7d" -> seconds."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    match = _DURATION.fullmatch(text.strip())
    if not text.strip() or match is None:
        raise Failure(f"{text!r} is no duration: write one such as 30s, 10m, 1h30m or 7d.", 2)
    parts = {unit: float(value or 0) for unit, value in match.groupdict().items()}
    return parts["d"] * 86400 + parts["h"] * 3600 + parts["m"] * 60 + parts["s"]


def parse_moment(text: str, now: float) -> float:
    """ "10m" (that long before `now`), unix seconds of at least nine digits, or RFC 3339 -> unix seconds."""
    if re.fullmatch(r"\d{9,}(\.\d+)?", text):
        return float(text)
    if re.match(r"\d{4}-", text):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise Failure(f"{text!r} is no time: write it as 2026-01-31T12:00:00Z.", 2) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return now - parse_duration(text)


def parse_pairs(texts: Iterable[str], what: str, *, defaults: dict[str, str] | None = None) -> dict[str, str]:
    """["a=1", "b"] -> {"a": "1", "b": ""}; a key without "=" is looked up in `defaults` when given, and left out if absent."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise Failure(f"{what} {text!r} names no key: write KEY=VALUE.", 2)
        if equals or defaults is None:
            found[key] = value
        elif key in defaults:
            found[key] = defaults[key]
    return found


def size_text(count: float) -> str:
    """1288490188 -> "1.2GiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f}{unit}" if unit == "B" else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}TiB"


def age_text(moment: str | None, now: float | None = None) -> str:
    """How long ago an RFC 3339 time was: "12 s", "5 min", "3 h", "9 d"; "" for none."""
    if not moment:
        return ""
    seconds = max(0.0, (time.time() if now is None else now) - datetime.fromisoformat(moment).timestamp())
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / divisor)} {unit}"
    return f"{int(seconds / 86400)} d"


def ports_text(row: Mapping[str, Any]) -> str:
    """ "8080->80/tcp, …" of a container or task."""
    return ", ".join(f"{port['host_port']}->{port['container_port']}/{port['protocol']}" for port in row["ports"] or ())
