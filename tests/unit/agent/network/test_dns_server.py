"""The resolver's bookkeeping of sockets, with sockets of the loopback instead of a container's."""

from __future__ import annotations

import socket

import pytest

from agent.network import dns
from agent.network.names import Book

ROUNDS, CONTAINERS = 100, 6


def _pair() -> tuple[socket.socket, socket.socket]:
    udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    for sock in (udp, tcp):
        sock.bind(("127.0.0.1", 0))
    tcp.listen()
    return udp, tcp


def test_stop_closes_every_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those whose closing was asked for while the thread was busy with an earlier one."""
    opened: list[socket.socket] = []

    def open_sockets(path: str) -> tuple[socket.socket, socket.socket]:
        pair = _pair()
        opened.extend(pair)
        return pair

    monkeypatch.setattr(dns.netnsdns, "open_sockets", open_sockets)
    for _ in range(ROUNDS):
        server = dns.DnsServer(lambda: Book(), lambda container_id: ())
        for number in range(CONTAINERS):
            server.open(f"c{number}", "")
        server.stop()
        server.open("late", "")
        server.stop()
    left = [sock for sock in opened if sock.fileno() >= 0]
    for sock in left:
        sock.close()
    assert left == []
    assert len(opened) == 2 * ROUNDS * CONTAINERS, "nothing is opened after the end"
