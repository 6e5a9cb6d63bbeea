"""Anything at all on the supervisor's socket: it answers or refuses, goes on serving others, and keeps nothing.

WHARF_FUZZ=1 is the full size. A failure prints the message; hypothesis keeps it for the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.runtime.defaults import default_config
from agent.supervisor import wire
from agent.supervisor.operations import TABLE
from tests.integration.agent.supervisor.home import DEADLINE, Home, until
from tests.integration.agent.supervisor.test_protocol import Raw

EXAMPLES = 4000 if os.environ.get("WHARF_FUZZ") == "1" else 60

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000 if EXAMPLES > 1000 else 120)]

# An answer may wait for something that never happens; or it comes from the next generation, or from nobody.
LATER = {"wait", "stop", "exec_wait", "delete"}
LEFT_OUT = {"shutdown", "upgrade"}
IDS = ("c1", "c1", "c1", "c1", "c1", "c2", "c2", "", "..", "a/b", "c1\0", "x" * 300, "ü", "supervisor")
EXECS = ("e1", "", "e" * 200, "/")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from((0, 1, 9, 15, 64, 65, -1, 1 << 31, 1 << 63)),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from((*IDS, "no", "always", "json-file", "syslog", "shim", "stdout", "pidfd", "bind", "tmpfs")),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)
# What each parameter would have to be, so that operations get beyond their first check.
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from(IDS),
    "exec_id": st.sampled_from(EXECS),
    "signal": st.integers(0, 66),
    "grace": st.sampled_from((0, 0.01, -1, 1e300)),
    "process": st.sampled_from(
        (
            {"args": ["true"], "cwd": "/"},
            {"args": ["true"], "cwd": "/"},
            {"args": []},
            {"args": [7]},
            {"args": ["true"], "cwd": 7},
            {},
        )
    ),
    "resources": st.sampled_from(({"pids": {"limit": 50}}, {"pids": 7}, {"memory": {"limit": -7}}, {"cpu": {"quota": 1}})),
    "restart": st.sampled_from(({"name": "no"}, {"name": "on-failure", "max": 2}, {"name": 7}, {"max": "x"})),
    "log": st.sampled_from(({"driver": "local"}, {"driver": "none"}, {"driver": "syslog"}, {"driver": 7}, {"max-size": []})),
    "health": st.sampled_from(({"Test": ["CMD", "true"]}, {"Test": "x"}, {"Test": []}, {"Test": ["CMD"], "Interval": -1})),
    "isolation": st.sampled_from(("shared", "shim", "vm")),
    "lease": st.sampled_from((0, 0.5, -1, 1e300)),
    "kinds": st.lists(st.sampled_from(("pidfd", "console", "stdin", "stdout", "x")), max_size=4),
    "rows": st.integers(-1, 70000),
    "cols": st.integers(-1, 70000),
    "words": st.lists(st.text(max_size=5), max_size=3),
    "pid": st.integers(-1, 100),
    "start_time": st.integers(-1, 100),
}
FLAGS = ("force", "all", "tty", "stdin", "next", "hold", "open_stdin", "stdin_once", "keep", "pivot")
ALWAYS = {"id", "exec_id", "signal", "process", "kinds", "pid", "start_time", "rows", "cols"}
# Paths only within a test's own directory: what names a place on this machine is not drawn at random.
PLACES = {"root", "bundle"}


def a_message(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"op": draw(st.sampled_from(sorted(set(TABLE) - LEFT_OUT)))}
    message["n"] = draw(st.one_of(st.integers(0, 1000), values))
    wild = draw(st.sets(st.sampled_from((*LIKELY, *FLAGS)), max_size=2))
    for name, likely in {**LIKELY, **dict.fromkeys(FLAGS, st.booleans())}.items():
        if name in wild:
            message[name] = draw(values)
        elif name in ALWAYS or draw(st.booleans()):
            message[name] = draw(likely)
    for name in PLACES:
        if draw(st.booleans()):
            message[name] = draw(st.sampled_from(("", "\0", 7, None, "{tmp}/nothing", "{tmp}")))
    return message


messages = st.composite(a_message)()


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration that works, but for one place."""
    config: Any = copy.deepcopy(default_config(["true"]))
    place, key = config, draw(st.sampled_from(sorted(config)))
    while draw(st.booleans()) and isinstance(place[key], dict | list) and place[key]:
        place = place[key]
        key = draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else draw(st.integers(0, len(place) - 1))
    place[key] = draw(values)
    return dict(config)


class Descriptors:
    """What may come beside a message: of every kind, by number."""

    def __init__(self) -> None:
        read, write = os.pipe()
        sealed, unsealed = wire.sealed(b'{"op": "list", "n": 5}'), os.memfd_create("body")
        self.kinds = [read, write, sealed, unsealed, os.open("/dev/null", os.O_RDWR), os.pidfd_open(os.getpid())]

    def close(self) -> None:
        for fd in self.kinds:
            os.close(fd)


@pytest.fixture
def beside() -> Iterator[list[int]]:
    found = Descriptors()
    yield found.kinds
    found.close()


def holdings(home: Home) -> tuple[int, int]:
    """(descriptors, children) of the supervisor."""
    children = Path(f"/proc/{home.supervisor}/task/{home.supervisor}/children").read_text().split()
    return len(os.listdir(f"/proc/{home.supervisor}/fd")), len(children)


def examples(test: Callable[..., None], share: float = 1.0) -> Callable[..., None]:
    rules = settings(max_examples=max(10, int(EXAMPLES * share)), deadline=None, suppress_health_check=list(HealthCheck))
    return rules(test)


def clear(home: Home) -> None:
    """Delete whatever a message made, or is making: that is in no list."""
    raw = Raw(home.rundir)
    try:
        made = {record["id"] for record in raw.ask(b'{"n": 1, "op": "list"}')["ok"]["containers"]}
        for id_ in {*made, "c1", "c2"}:
            told = raw.ask(json.dumps({"n": 2, "op": "delete", "id": id_, "force": True}).encode())
            assert "ok" in told or told["error"]["code"] == "no_such_container"  # a delete was under way
    finally:
        raw.sock.close()


async def even(home: Home, before: tuple[int, int]) -> None:
    """Nothing is left, in the supervisor or on disk."""
    await asyncio.to_thread(clear, home)
    await until(lambda: holdings(home) <= before, f"no more than {before} is held")
    assert home.directories() == []
    await until(lambda: not home.cgroups(), "no cgroup is left")
    assert await home.pid() == home.supervisor


async def steady(home: Home) -> tuple[int, int]:
    """What is held once each kind of container was there."""
    for isolation in ("shared", "shim"):
        await home.run("c1", "true", isolation=isolation)
        await home.client.delete("c1", force=True)
    return holdings(home)


def served(home: Home) -> None:
    """A healthy client, new each time."""
    other = Raw(home.rundir)
    try:
        assert other.ask(b'{"n": 77, "op": "hello"}')["ok"]["pid"] == home.supervisor
    finally:
        other.sock.close()


def answers(raw: Raw, marker: str) -> list[dict[str, Any]]:
    """All that comes until the answer to a question of our own, without events and what a store is given."""
    raw.send(json.dumps({"n": marker, "op": "hello"}).encode())
    found: list[dict[str, Any]] = []
    while True:
        data, fds, _flags, _address = socket.recv_fds(raw.sock, 1 << 20, 32)
        for fd in fds:
            os.close(fd)
        message = json.loads(data)
        if message.get("n") == marker:
            return found
        if "event" not in message and "hold" not in message:
            found.append(message)


async def test_any_bytes_with_any_descriptors(home: Home, beside: list[int]) -> None:
    before = await steady(home)

    def check(packets: list[bytes], fds: list[int]) -> None:
        raw = Raw(home.rundir)
        try:
            for packet in packets:
                raw.send(packet or b" ", [beside[number] for number in fds])
            assert len(answers(raw, "mark")) == len(packets)
        finally:
            raw.sock.close()
        served(home)

    data = st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=60).map(lambda tail: b'{"op": "list", "n": ' + tail + b"}"),
        st.text(max_size=60).map(lambda text: json.dumps({"op": text, "memfd": True}).encode()),
        st.sampled_from(
            (b"\0" * 65536, b"[" * 65536, b'{"n":' + b"9" * 60000 + b"}", b'{"n":1,"op":"list"' + b" " * 65500 + b"}")
        ),
    )
    fds = st.lists(st.integers(0, len(beside) - 1), max_size=17)
    await asyncio.to_thread(examples(given(st.lists(data, max_size=4), fds)(check)))
    await even(home, before)


async def test_well_formed_messages_with_wrong_values(home: Home, beside: list[int], tmp_path: Path) -> None:
    before = await steady(home)
    place = tmp_path / "place"
    place.mkdir()

    def check(asked: list[dict[str, Any]], fds: list[int], state: str) -> None:
        raw = Raw(home.rundir)
        try:
            bring(raw, home, state)
            for message in asked:
                data = json.dumps({"rootfs": rootfs(home), "config": default_config(["true"]), **message})
                body = wire.sealed(data.replace("{tmp}", str(place)).encode())
                raw.send(b'{"n": 1, "memfd": true}', [body, *[beside[number] for number in fds]])
                os.close(body)
            told = answers(raw, "mark")
            deadline = time.monotonic() + DEADLINE
            while len(told) < sum(message["op"] not in LATER for message in asked):  # creations and starts take their time
                assert time.monotonic() < deadline, told
                told += answers(raw, "mark")
            assert not [answer for answer in told if unforeseen(answer)]
        finally:
            raw.sock.close()
            clear(home)
        served(home)

    fds = st.lists(st.integers(0, len(beside) - 1), max_size=14)
    states = st.sampled_from(("none", "created", "running", "paused"))
    await asyncio.to_thread(examples(given(st.lists(messages, min_size=1, max_size=8), fds, states)(check)))
    assert list(place.iterdir()) == []
    await even(home, before)


def bring(raw: Raw, home: Home, state: str) -> None:
    """The container c1 into a state."""
    config = default_config(["sleep", "600"])
    steps = [
        {"op": "create", "id": "c1", "config": config, "rootfs": rootfs(home)},
        {"op": "start", "id": "c1"},
        {"op": "pause", "id": "c1"},
    ]
    for step in steps[: ("none", "created", "running", "paused").index(state)]:
        assert "ok" in raw.ask(json.dumps({"n": 1, **step}).encode())


def unforeseen(answer: dict[str, Any]) -> bool:
    """Whether the supervisor stumbled; what the kernel says to a strange wish is an answer."""
    error = answer.get("error", {})
    return error.get("code") == "internal" and "errno" not in error["extra"]


def rootfs(home: Home) -> list[list[Any]]:
    return [[mount.type, mount.source, mount.target, list(mount.options)] for mount in home.rootfs]


async def test_configurations_wrong_in_one_place(home: Home) -> None:
    before = await steady(home)

    def check(config: dict[str, Any], isolation: str, start: bool) -> None:
        config.setdefault("linux", {})
        if isinstance(config["linux"], dict):
            config["linux"]["cgroupsPath"] = ""  # nothing outside the test's own
        raw = Raw(home.rundir)
        message = {"n": 1, "op": "create", "id": "c1", "config": config, "rootfs": rootfs(home), "isolation": isolation}
        try:
            body = wire.sealed(json.dumps(message).encode())
            made = raw.ask(b'{"n": 1, "memfd": true}', [body])
            os.close(body)
            assert not unforeseen(made), made
            if start and "ok" in made:
                assert raw.ask(b'{"n": 2, "op": "start", "id": "c1"}')["n"] == 2
        finally:
            raw.sock.close()
            clear(home)
        served(home)

    isolations = st.sampled_from(("shared", "shim"))
    await asyncio.to_thread(examples(given(configs(), isolations, st.booleans())(check), 0.5))
    await even(home, before)


async def test_a_connection_cut_at_each_byte(home: Home, beside: list[int]) -> None:
    """In the packet, in the body beside it, and while an answer is due."""
    before = await steady(home)
    await home.run("c1", "sleep", "600")
    message = b'{"n": 1, "op": "wait", "id": "c1"}'

    def cut() -> None:
        for length in range(len(message) + 1):
            for fds in ([], beside[:1], beside):
                raw = Raw(home.rundir)
                if length:
                    raw.send(message[:length], fds)
                raw.sock.close()
            raw, body = Raw(home.rundir), wire.sealed(message[:length])
            raw.send(b'{"n": 1, "memfd": true}', [body])
            os.close(body)
            raw.sock.close()
            served(home)

    await asyncio.to_thread(cut)
    record = await home.client.state("c1")
    assert record["state"] == "running"
    await even(home, before)


async def test_clients_that_vanish_at_any_moment(home: Home) -> None:
    """Descriptors in flight, answers unread, questions open: whatever a dead client was owed is let go."""
    before = await steady(home)

    def check(asked: list[dict[str, Any]], moment: float, reads: int) -> None:
        raw = Raw(home.rundir)
        for message in asked:
            with contextlib.suppress(BrokenPipeError):
                raw.send(json.dumps(message).encode())
        raw.sock.settimeout(moment)
        with contextlib.suppress(TimeoutError):
            for _ in range(reads):
                raw.sock.recv(64)
        raw.sock.close()
        served(home)

    await home.run("c1", "sh", "-c", "while :; do echo line; usleep 1000; done", open_stdin=True)
    asks = st.sampled_from(
        (
            {"n": 1, "op": "attach", "id": "c1"},
            {"n": 2, "op": "subscribe", "hold": True},
            {"n": 3, "op": "wait", "id": "c1"},
            {"n": 4, "op": "exec", "id": "c1", "process": {**default_config(["true"])["process"]}, "stdin": True},
            {"n": 5, "op": "exec", "id": "c1", "process": {**default_config(["true"])["process"]}, "tty": True},
            {"n": 6, "op": "list"},
            {"n": 7, "op": "resize", "id": "c1", "rows": 1, "cols": 1},
        )
    )
    check_ = given(st.lists(asks, max_size=6), st.floats(0.0001, 0.002), st.integers(0, 3))(check)
    await asyncio.to_thread(examples(check_, 0.5))
    await even(home, before)
