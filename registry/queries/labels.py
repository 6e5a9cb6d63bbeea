"""What a repository's labels may be."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.protocol.errors import InvalidInput

MOST = 50
_KEY = re.compile(r"\A[a-z0-9](?:[a-z0-9._/-]{0,98}[a-z0-9])?\Z")


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels, values without blanks around them. Raises InvalidInput."""
    if len(labels) > MOST:
        raise InvalidInput(f"a repository has at most {MOST} labels, not {len(labels)}", field="labels")
    for key, value in labels.items():
        if not _KEY.match(key):
            raise InvalidInput(
                f"{key!r} is no label's key: use up to 100 lower-case letters, digits, '.', '_', '-' and '/', with a letter or"
                " digit at both ends",
                field="labels",
            )
        if len(value) > 200 or any(ord(character) < 32 for character in value):
            raise InvalidInput(f"the value of the label {key} is one line of at most 200 characters", field="labels")
    return {key: value.strip() for key, value in labels.items()}


def parse_labels(text: str) -> dict[str, str]:
    """ "team=web tier=front" or one a line -> {"team": "web", "tier": "front"}. Raises InvalidInput."""
    pairs = [line.partition("=") for line in text.split("\n" if "\n" in text.strip() else None) if line.strip()]
    return checked_labels({key.strip(): value.strip() for key, _, value in pairs})
