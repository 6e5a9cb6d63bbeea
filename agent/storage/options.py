"""Options of graph drivers under Docker's names, and sizes as people write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from agent.storage.errors import OptionInvalid

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse(items: Iterable[str]) -> dict[str, str]:
    """From `--storage-opt` words, "key=value". Keys are case-insensitive, the last one of a name counts."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise OptionInvalid(f"storage option {item!r} is not of the form key=value", option=item)
        found[key.strip().lower()] = value.strip()
    return found


def check(given: Mapping[str, str], driver: str, known: Mapping[str, frozenset[str]]) -> None:
    """Refuse what `driver` does not know; `known` names every driver's options."""
    for key in given:
        if key in known[driver]:
            continue
        owner = next((name for name, keys in known.items() if key in keys), None)
        if owner:
            raise OptionInvalid(f"{key} is an option of graph driver {owner}, but {driver} is in use: remove it", option=key)
        names = ", ".join(sorted(known[driver])) or "none"
        raise OptionInvalid(f"graph driver {driver} has no option {key!r}; its options: {names}", option=key)


def size(text: str, option: str) -> int:
    """Bytes, from "10G", "512m", "1.5 GiB" or a plain number; units are powers of 1024, as in Docker."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionInvalid(f"{option}={text}: not a size; write bytes, or a number with k, m, g or t", option=option)
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def flag(text: str, option: str) -> bool:
    """true or false, also 1, 0, t, f as Docker takes them."""
    word = text.lower()
    if word not in ("true", "t", "1", "false", "f", "0"):
        raise OptionInvalid(f"{option}={text}: say true or false", option=option)
    return word in ("true", "t", "1")


def percent(text: str, option: str) -> int:
    """0 to 100, with or without a percent sign."""
    number = text.removesuffix("%")
    if not number.isdigit() or int(number) > 100:
        raise OptionInvalid(f"{option}={text}: not a percentage from 0 to 100", option=option)
    return int(number)
