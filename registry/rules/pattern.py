"""Patterns of names: `*` is anything but "/", `**` anything, `?` one character, `[a-c]` or `[!a-c]` a set, `{a,b}` a choice.

Written as Harbor's users know them. Matched by walking the set of places that a prefix can end at, never by a regular expression:
no pattern that a user writes takes more than its length times the name's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from agent.protocol.errors import InvalidInput

MAX_LENGTH = 128
MAX_CHOICES = 64
_SET = re.compile(r"\[(!?)((?:[A-Za-z0-9_.](?:-[A-Za-z0-9_.])?)+)\]")
_CHOICE = re.compile(r"\{([^{}]*)\}")
_TOKEN = re.compile(rf"\*\*|\*|\?|{_SET.pattern}|[^*?\[\]{{}}]+")


class PatternInvalid(InvalidInput):
    code = "pattern_invalid"


def check_pattern(pattern: str) -> str:
    """The pattern itself. Raises PatternInvalid."""
    _parsed(pattern)
    return pattern


def matches(pattern: str, name: str) -> bool:
    """Does the whole of `name` fit? Raises PatternInvalid."""
    return any(_fits(parts, name) for parts in _parsed(pattern))


@lru_cache(maxsize=1024)
def _parsed(pattern: str) -> tuple[tuple[str, ...], ...]:
    """The pattern's choices, each as parts."""
    if not pattern or len(pattern) > MAX_LENGTH:
        raise PatternInvalid(f"a pattern has 1 to {MAX_LENGTH} characters; '*' fits every tag, '**' every repository")
    return tuple(tuple(_tokens(pattern, text)) for text in _choices(pattern))


def _choices(pattern: str) -> list[str]:
    waiting, done = [pattern], []
    while waiting:
        text = waiting.pop()
        found = _CHOICE.search(text)
        if found is None:
            done.append(text)
        else:
            waiting.extend(text[: found.start()] + word + text[found.end() :] for word in found[1].split(","))
        if len(done) + len(waiting) > MAX_CHOICES:
            raise PatternInvalid(f"the pattern {pattern!r} means more than {MAX_CHOICES} patterns; make several rules of it")
    return done


def _tokens(pattern: str, text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise PatternInvalid(
                f"the pattern {pattern!r} has a {text[at]!r} that belongs to nothing; sets are [0-9] or [!abc], choices {{a,b}}"
            )
        yield found[0]
        at = found.end()


def _fits(parts: tuple[str, ...], name: str) -> bool:
    places = {0}
    for part in parts:
        places = _after(part, name, places)
        if not places:
            return False
    return len(name) in places


def _after(part: str, name: str, places: set[int]) -> set[int]:
    """Where the part can end when it begins at one of `places`."""
    if part == "**":
        return set(range(min(places), len(name) + 1))
    if part == "*":
        ends: set[int] = set()
        for place in sorted(places):
            if place not in ends:
                slash = name.find("/", place)
                ends.update(range(place, (len(name) if slash < 0 else slash) + 1))
        return ends
    if part == "?" or part[0] == "[":
        return {place + 1 for place in places if place < len(name) and _one(part, name[place])}
    return {place + len(part) for place in places if name.startswith(part, place)}


def _one(part: str, char: str) -> bool:
    if char == "/":
        return False
    found = _SET.fullmatch(part)
    if found is None:
        return True
    return _in_set(found[2], char) is not bool(found[1])


def _in_set(text: str, char: str) -> bool:
    return any(part[0] <= char <= part[-1] if len(part) == 3 else char == part for part in re.findall(r"[\w.]-[\w.]|[\w.]", text))
