"""Encoding and decoding of netlink, without a socket."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from agent.sys import nftables as nf
from agent.sys import rtnetlink
from agent.sys.netlink import attr, be32, error_of, nest, parse, parse_list, string, text, u32


def test_attributes_are_padded_and_parsed_back() -> None:
    packed = string(3, "eth0") + u32(4, 1500) + nest(18, string(1, "veth"))
    assert len(packed) % 4 == 0
    attrs = parse(packed)
    assert text(attrs[3]) == "eth0"
    assert struct.unpack("=I", attrs[4]) == (1500,)
    assert text(parse(attrs[18])[1]) == "veth"
    assert be32(1, 258)[4:] == b"\0\0\1\2"


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_any_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    assert list(parse_list(b"".join(attr(kind, data) for kind, data in pairs))) == pairs


@given(st.binary(max_size=80))
def test_junk_ends_instead_of_looping(junk: bytes) -> None:
    assert len(list(parse_list(junk))) <= 20


def test_the_kernels_sentence_is_read_from_a_capped_error() -> None:
    body = struct.pack("=i", -17) + b"\0" * 16 + attr(1, b"already there\0")
    assert error_of(body, 0x100 | 0x200) == (17, "already there")
    assert error_of(struct.pack("=i", 0) + b"\0" * 16, 0x100) == (0, "")


def test_a_veth_message_puts_the_peer_into_the_other_namespace() -> None:
    create, port = rtnetlink.new_veth("v0", 7, 42, "eth0", "02:42:ac:11:00:02", 1400)
    attrs = parse(create.body[16:])
    assert text(attrs[rtnetlink.IFLA_IFNAME]) == "v0"
    assert struct.unpack("=I", attrs[rtnetlink.IFLA_MASTER]) == (7,)
    peer = parse(parse(parse(attrs[rtnetlink.IFLA_LINKINFO])[rtnetlink.IFLA_INFO_DATA])[1][16:])
    assert text(peer[rtnetlink.IFLA_IFNAME]) == "eth0"
    assert peer[rtnetlink.IFLA_ADDRESS] == bytes.fromhex("0242ac110002")
    assert struct.unpack("=I", peer[rtnetlink.IFLA_NET_NS_FD]) == (42,)
    assert struct.unpack_from("=I", port.body, 8) == (1,), "up"


def test_elements_are_cut_into_messages_that_an_attribute_can_hold() -> None:
    items = [(number.to_bytes(8, "big"), b"\0" * 8) for number in range(1201)]
    messages = nf.elements(nf.NFPROTO_IPV4, "t", "m", items)
    assert len(messages) == 3
    assert all(len(message.body) < 65536 for message in messages)
    assert nf.elements(nf.NFPROTO_IPV4, "t", "m", []) == []
