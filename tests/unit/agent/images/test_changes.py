from __future__ import annotations

from typing import Any

import pytest

from agent.images.changes import apply_changes, duration
from agent.images.errors import ImageInvalid

GOOD: list[tuple[str, dict[str, Any]]] = [
    ('CMD ["a", "b"]', {"Cmd": ["a", "b"]}),
    ("cmd a b", {"Cmd": ["/bin/sh", "-c", "a b"]}),
    ("ENTRYPOINT", {"Entrypoint": []}),
    ("ENV A=1 B='2 3'", {"Env": ["A=1", "B=2 3"]}),
    ("ENV A the rest", {"Env": ["A=the rest"]}),
    ("LABEL a.b=c", {"Labels": {"a.b": "c"}}),
    ("EXPOSE 80 53/udp 8000-8001", {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}}),
    ('VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
    ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
    ("WORKDIR a/../b", {"WorkingDir": "/b"}),
    ("USER 5:6", {"User": "5:6"}),
    ("STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
    ('SHELL ["/bin/ash"]', {"Shell": ["/bin/ash"]}),
    ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
    ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
    (
        "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f x",
        {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"], "Interval": 90 * 10**9, "Retries": 2}},
    ),
    ('HEALTHCHECK CMD ["x"]', {"Healthcheck": {"Test": ["CMD", "x"]}}),
]


@pytest.mark.parametrize(("line", "expected"), GOOD)
def test_instructions(line: str, expected: dict[str, Any]) -> None:
    assert apply_changes({}, [line]) == expected


@pytest.mark.parametrize(
    "line",
    [
        "RUN x",
        "",
        "EXPOSE 99999",
        "EXPOSE x",
        "ENV",
        "VOLUME",
        "USER",
        "WORKDIR",
        "HEALTHCHECK x",
        "HEALTHCHECK --x=1 CMD y",
        "SHELL sh",
    ],
)
def test_refused(line: str) -> None:
    with pytest.raises(ImageInvalid):
        apply_changes({}, [line])


def test_in_order_and_without_touching_the_original() -> None:
    before = {"Env": ["A=1", "PATH=/bin"], "WorkingDir": "/x"}
    after = apply_changes(before, ["ENV A=2", "WORKDIR y", "WORKDIR z"])
    assert after == {"Env": ["A=2", "PATH=/bin"], "WorkingDir": "/x/y/z"}
    assert before["Env"] == ["A=1", "PATH=/bin"]


def test_durations() -> None:
    assert [duration(text) for text in ("1h", "1.5s", "10ms", "2us")] == [3600 * 10**9, 1_500_000_000, 10_000_000, 2000]
    for text in ("", "1", "s", "1s x", "-1s"):
        with pytest.raises(ValueError, match="duration"):
            duration(text)
