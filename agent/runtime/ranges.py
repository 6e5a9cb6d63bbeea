"""Lists of numbers as the kernel writes them: "0-3,7" (cpuset(7), "List format")."""

from __future__ import annotations

from agent.runtime.errors import InvalidConfig

HIGHEST = 8191  # more processors or memory nodes than any kernel is built for


def numbers(text: str, what: str) -> list[int]:
    """Ascending, each once; [] for an empty text. Raises InvalidConfig, which names `what`."""
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = (part.strip() for part in word.partition("-"))
        if not first and not dash and not text.strip():
            return []
        if not _plain(first) or (dash and not _plain(last)):
            raise InvalidConfig(f"{what} is {text!r}; it must be a list such as 0-3,7")
        low, high = int(first), int(last if dash else first)
        if low > high or high > HIGHEST:
            raise InvalidConfig(f"{what} holds {word.strip()!r}, which is no range of numbers up to {HIGHEST}")
        found.update(range(low, high + 1))
    return sorted(found)


def _plain(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 6
