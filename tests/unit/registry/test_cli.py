from __future__ import annotations

import pytest

from registry.cli.frame import size_text, split


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (1234567, "1.2 MB"), (5 * 10**13, "50.0 TB")]
)
def test_size_text(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a/b", ("a/b", "latest")), ("a/b:v1", ("a/b", "v1")), ("a/b@sha256:0", ("a/b", "sha256:0"))],
)
def testsplit(text: str, parts: tuple[str, str]) -> None:
    assert split(text) == parts
