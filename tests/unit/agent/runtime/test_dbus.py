"""D-Bus values as the specification writes them, and a connection against a peer of ours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.dbus import Connection, DBusError
from agent.runtime.dbus.marshal import Reader, Writer, split
from tests.unit.agent.runtime.dbus_peer import Peer, Refused


def written(signature: str, *values: Any) -> bytes:
    writer = Writer()
    writer.put(signature, values)
    return bytes(writer.data)


@pytest.mark.parametrize(
    ("signature", "values", "expected"),
    [
        ("yu", (1, 2), "01 000000 02000000"),  # a number lies at a multiple of its size
        ("s", ("ab",), "02000000 6162 00"),
        ("g", ("as",), "02 6173 00"),
        ("b", (True,), "01000000"),
        ("at", ([5],), "08000000 00000000 0500000000000000"),  # the padding before the first item is not counted
        ("v", (("u", 7),), "01 75 00 00 07000000"),
        ("ay", (b"\1\2",), "02000000 0102"),
        ("y(ys)", (1, (2, "x")), "01 00000000000000 02 000000 01000000 78 00"),
        ("a{sv}", ({"k": ("b", False)},), "10000000 00000000 01000000 6b00 01 62 00 000000 00000000"),
    ],
)
def test_bytes_of_the_specification(signature: str, values: tuple[Any, ...], expected: str) -> None:
    data = written(signature, *values)
    assert data == bytes.fromhex(expected)
    assert Reader(data).get(signature) == list(values)


def test_big_endian_is_read() -> None:
    assert Reader(bytes.fromhex("00000002 6162 00 00 00000007"), ">").get("su") == ["ab", 7]


@pytest.mark.parametrize("signature", ["a", "(s", "!", "a{sv", "a()"])
def test_what_is_no_signature(signature: str) -> None:
    with pytest.raises(ValueError, match="not a D-Bus signature"):
        split(signature)


@given(st.binary(max_size=64), st.sampled_from(["s", "as", "a{sv}", "(yv)", "ay", "at"]))
def test_nonsense_is_an_error_and_never_a_loop(data: bytes, signature: str) -> None:
    try:
        Reader(data).get(signature)
    except ValueError:
        pass  # also for what is not UTF-8


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    made = Peer(tmp_path / "bus")
    try:
        yield made
    finally:
        made.close()


def connect(tmp_path: Path, **options: Any) -> Connection:
    return Connection(str(tmp_path / "bus"), bus=False, **options)


def test_call_names_us_and_brings_the_answer(tmp_path: Path, peer: Peer) -> None:
    peer.answers["Echo"] = lambda values: ("su", [values[0] * 2, 3])
    connection = connect(tmp_path)
    assert connection.call("d", "/p", "i", "Echo", "s", "ab") == ["abab", 3]
    connection.close()
    assert peer.identity == str(os.geteuid()).encode()
    assert peer.calls == [("Echo", ["ab"])]


def test_error_keeps_its_name(tmp_path: Path, peer: Peer) -> None:
    def refuse(values: list[Any]) -> tuple[str, list[Any]]:
        raise Refused("org.example.No", "because")

    peer.answers["Try"] = refuse
    connection = connect(tmp_path)
    with pytest.raises(DBusError, match="because") as caught:
        connection.call("d", "/p", "i", "Try")
    connection.close()
    assert caught.value.name == "org.example.No"


def test_silence_ends_at_the_deadline(tmp_path: Path, peer: Peer) -> None:
    connection = connect(tmp_path)
    with pytest.raises(TimeoutError):
        connection.wait_signal(lambda _signal: True, time.monotonic() + 0.05)
    connection.close()


def test_a_bus_is_greeted_first(tmp_path: Path, peer: Peer) -> None:
    Connection(str(tmp_path / "bus"), bus=True).close()
    assert peer.members() == ["Hello"]
