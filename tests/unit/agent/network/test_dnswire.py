"""DNS messages and the book of names."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from agent.network import dnswire, names
from agent.network.records import Endpoint, Sandbox
from agent.protocol.spec import NetworkMode


def query(name: bytes, kind: int = 1, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b"."))
    return struct.pack(">6H", 9, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def test_a_question_is_read() -> None:
    data = query(b"Web.Blue") + b"trailing additional section"
    question = dnswire.parse(data)
    assert question is not None
    assert (question.id, question.name, question.type) == (9, "web.blue", 1)
    assert data[question.end :] == b"trailing additional section"


def test_what_is_no_simple_query_is_left_alone() -> None:
    assert dnswire.parse(query(b"a", flags=0x8000)) is None, "an answer"
    assert dnswire.parse(query(b"a", flags=0x2800)) is None, "an update"
    assert dnswire.parse(query(b"a")[:-1]) is None
    assert dnswire.parse(query(b"a")[:-2] + b"\0\3") is None, "class CHAOS"


@given(st.binary(max_size=100))
def test_junk_never_raises(junk: bytes) -> None:
    question = dnswire.parse(junk)
    if question is not None:
        assert dnswire.failure(junk, question)[:2] == junk[:2]


def test_answers_hold_only_what_was_asked_for() -> None:
    data = query(b"web")
    question = dnswire.parse(data)
    assert question is not None
    answer = dnswire.addresses(data, question, ["10.0.0.2", "fd00::2"])
    assert struct.unpack_from(">6H", answer) == (9, 0x8580, 1, 1, 0, 0)
    assert answer.endswith(b"\x00\x04\x0a\x00\x00\x02")
    six = dnswire.addresses(data, question._replace(type=dnswire.TYPE_AAAA), ["10.0.0.2"])
    assert struct.unpack_from(">6H", six)[3] == 0
    assert dnswire.failure(data, question)[3] & 15 == dnswire.SERVFAIL


def test_reverse_names() -> None:
    assert dnswire.reverse_of("2.0.17.172.in-addr.arpa") == "172.17.0.2"
    assert dnswire.reverse_of("17.172.in-addr.arpa") is None
    assert dnswire.reverse_of("example.org") is None


def sandbox(container_id: str, name: str, *endpoints: tuple[str, str, str], aliases: tuple[str, ...] = ()) -> Sandbox:
    made = tuple(
        Endpoint(network_id, network, "eth0", "v", address, 16, "10.0.0.1", "02", aliases)
        for network_id, network, address in endpoints
    )
    return Sandbox(container_id, NetworkMode.BRIDGE, name, made)


def test_the_book_tells_only_what_is_shared() -> None:
    book = names.write(
        [
            sandbox("a", "Web", ("1", "blue", "10.0.0.2")),
            sandbox("b", "db", ("1", "blue", "10.0.0.3"), ("2", "green", "10.1.0.3"), aliases=("store",)),
            sandbox("c", "c", ("2", "green", "10.1.0.4")),
            sandbox("d", "d", ("0", "bridge", "172.17.0.2")),
        ]
    )
    assert book.addresses("a", "db") == ["10.0.0.3"]
    assert book.addresses("a", "store") == ["10.0.0.3"]
    assert book.addresses("c", "db.green") == ["10.1.0.3"]
    assert sorted(book.addresses("b", "db") or []) == ["10.0.0.3", "10.1.0.3"]
    assert book.addresses("b", "web") == ["10.0.0.2"]
    assert book.addresses("a", "c") is None
    assert book.addresses("d", "d") is None, "no names on the default network"
    assert book.addresses("nobody", "db") is None
    assert book.name_of("a", "10.0.0.3") == "db.blue"
    assert book.name_of("a", "10.1.0.4") is None
