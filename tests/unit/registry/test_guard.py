"""The guard of outgoing requests: every spelling of a forbidden address, names that change their mind, the allow-list."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.remote import guard
from registry.remote.errors import EgressRefused, RemoteAway
from registry.remote.transport import Tls, http_client, send_once

FORBIDDEN = [
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "0.0.0.0/8"),
    *("224.0.0.0/4", "240.0.0.0/4", "192.0.0.0/24", "198.18.0.0/15", "168.63.129.16/32", "255.255.255.255/32"),
]
FORBIDDEN_6 = ["::1/128", "::/128", "fc00::/7", "fe80::/10", "ff00::/8", "fec0::/10", "2001:db8::/32"]


def addresses(*networks: str) -> st.SearchStrategy[Any]:
    return st.one_of(*(st.ip_addresses(network=network) for network in networks))


def spellings(address: ipaddress.IPv4Address) -> list[str]:
    """Every way in which inet_aton, and with it a resolver, reads this address; the first is the usual one."""
    number = int(address)
    a, b, c, d = address.packed
    return [
        f"{a}.{b}.{c}.{d}",
        str(number),
        hex(number),
        f"0X{number:X}",
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{a}.{b}.{c}.{d:#x}",
        f"{a}.{b}.{c}.{d}.",
        f"{a:04d}.{b}.{c}.{d}",
    ]


def wrapped(address: ipaddress.IPv4Address) -> list[str]:
    number = int(address)
    return [
        f"[::ffff:{address}]",
        f"[::ffff:{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[0:0:0:0:0:ffff:{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[64:ff9b:1::{number >> 16:x}:{number & 0xFFFF:x}]",
        f"[2002:{number >> 16:x}:{number & 0xFFFF:x}::1]",
        f"[::{address}]",
    ]


def go(url: str, resolver: guard.Resolver = guard.system_resolver) -> list[str]:
    return guard.resolve(guard.check_url(url), resolver)


def never(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was resolved: a resolver reads it as an address")


@given(addresses(*FORBIDDEN))
def test_no_spelling_of_a_forbidden_address_gets_through(address: ipaddress.IPv4Address) -> None:
    for text in spellings(address) + wrapped(address):
        with pytest.raises(EgressRefused):
            go(f"https://{text}/", never)


@given(addresses(*FORBIDDEN_6))
def test_forbidden_addresses_of_ipv6(address: ipaddress.IPv6Address) -> None:
    for text in (address.compressed, address.exploded, address.exploded.upper()):
        with pytest.raises(EgressRefused):
            go(f"https://[{text}]:8443/x", never)


@given(addresses(*FORBIDDEN, *FORBIDDEN_6))
def test_a_name_with_one_forbidden_address_is_refused_whatever_else_it_has(address: Any) -> None:
    for order in (["93.184.216.34", str(address)], [str(address), "93.184.216.34"]):
        with pytest.raises(EgressRefused, match=r"registry\.example\.org"):
            go("https://registry.example.org/", lambda host, port, order=order: order)  # type: ignore[misc]  # a default


@pytest.mark.parametrize("address", ["192.0.0.9", "192.0.0.10", "[64:ff9b::192.0.0.9]"])
def test_the_networks_own_gateways_are_refused_whatever_python_calls_them(address: str) -> None:
    with pytest.raises(EgressRefused):
        go(f"https://{address}/", never)


@given(st.ip_addresses(v=4).filter(lambda address: address.is_global and not address.is_multicast))
def test_unusual_spellings_of_public_addresses_are_refused_too(address: ipaddress.IPv4Address) -> None:
    usual, *others = spellings(address)
    for text in others:
        if text != usual:
            with pytest.raises(EgressRefused):
                go(f"http://{text}/", never)


def test_public_addresses_and_names_go() -> None:
    assert go("https://93.184.216.34/", never) == ["93.184.216.34"]
    assert go("https://[2606:4700::1111]:5000/v2/", never) == ["2606:4700::1111"]
    assert go("https://Example.ORG./x", lambda host, port: ["93.184.216.34"] if host == "example.org" else []) == [
        "93.184.216.34"
    ]


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.org/", "file:///etc/passwd", "gopher://example.org/", "//example.org", "example.org", "unix:/run/x", ""),
        *("http://user:secret@example.org/", "http://example.org@127.0.0.1/", "http://exa mple.org/", "http://example.org\\@x/"),
        *(
            "http://example.org:0/",
            "http://example.org:99999/",
            "http://example.org:x/",
            "http:///x",
            "http://[::1",
            "http://-a.b/",
        ),
        *(
            "http://ex%61mple.org/",
            "http://example.org\n/",
            "http://b\u00fccher.example/",
            "http://[fe80::1%25eth0]/",
            "http://a..b/",
        ),
        "http://example.org/" + "x" * 2000,
    ],
)
def test_odd_urls(url: str) -> None:
    with pytest.raises(EgressRefused):
        go(url, never)


@pytest.mark.parametrize("port", [22, 25, 6, 110, 445, 1023])
def test_low_ports(port: int, settings: Any) -> None:
    with pytest.raises(EgressRefused, match="below 1024"):
        go(f"http://93.184.216.34:{port}/")
    settings.REGISTRY_EGRESS_ALLOW = [f"93.184.216.34:{port}"]
    assert go(f"http://93.184.216.34:{port}/") == ["93.184.216.34"]


def test_own_addresses_are_refused_even_when_they_are_public(monkeypatch: Any) -> None:
    assert guard._is_own(ipaddress.ip_address("127.0.0.1"))
    monkeypatch.setattr(guard, "_is_own", lambda address: str(address) == "93.184.216.34")
    with pytest.raises(EgressRefused, match="address of this host"):
        go("https://93.184.216.34/")


def test_the_allow_list(settings: Any) -> None:
    settings.REGISTRY_EGRESS_ALLOW = ["10.0.0.0/8", "192.168.1.7:5000", "[fd00::7]:5000", "hub.internal", ".corp.example"]
    assert go("http://10.1.2.3:22/") == ["10.1.2.3"]
    assert go("http://192.168.1.7:5000/") == ["192.168.1.7"]
    assert go("http://[fd00::7]:5000/") == ["fd00::7"]
    assert go("http://hub.internal/", lambda host, port: ["172.16.0.1"]) == ["172.16.0.1"]
    assert go("http://a.corp.example/", lambda host, port: ["172.16.0.1"]) == ["172.16.0.1"]
    for url in ("http://192.168.1.7:5001/", "http://192.168.1.8:5000/", "http://127.0.0.1/", "http://[::ffff:10.1.2.3]/"):
        with pytest.raises(EgressRefused):
            go(url)
    for name in ("xhub.internal", "corp.example", "a.corp.example.org"):
        with pytest.raises(EgressRefused):
            go(f"http://{name}/", lambda host, port: ["172.16.0.1"])
    with pytest.raises(EgressRefused):  # the name is allowed, the metadata service is not
        go("http://hub.internal/", lambda host, port: ["169.254.169.254"])
    settings.REGISTRY_EGRESS_ALLOW = ["10.0.0.0/99"]
    with pytest.raises(EgressRefused, match="EGRESS_ALLOW"):
        go("http://93.184.216.34/")


def test_a_name_without_addresses_is_away_not_refused() -> None:
    with pytest.raises(RemoteAway):
        go("http://nowhere.example/", lambda host, port: [])


class Silent:
    """A listener on loopback that counts who comes and what they say."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.seen: list[bytes] = []
        self._answer = answer
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.sock.accept()
            except OSError:
                return
            with peer:
                self.seen.append(peer.recv(65536))
                peer.sendall(self._answer)

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(10)


@pytest.fixture
def inside() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


def test_a_resolver_that_answers_differently_the_second_time_gains_nothing(inside: Silent, settings: Any) -> None:
    """DNS rebinding: the first answer is allowed, the second would lead inside. There is no second question."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    settings.REGISTRY_EGRESS_ALLOW = [f"127.0.0.1:{inside.port}"]
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    with http_client(Tls(), resolver) as client:
        assert client.get(f"http://rebind.example:{inside.port}/").text == "ok"
    assert asked == ["rebind.example"]
    assert b"Host: rebind.example" in inside.seen[0]


def test_nothing_connects_to_a_refused_address(inside: Silent) -> None:
    with http_client(Tls(), lambda host, port: ["127.0.0.1"]) as client, pytest.raises(EgressRefused):
        client.get(f"http://inner.example:{inside.port}/")
    with pytest.raises(EgressRefused):
        send_once(f"http://127.0.0.1:{inside.port}/", b"", {}, tls=Tls(), deadline=5, limit=10)
    assert inside.seen == []


def test_proxies_of_the_environment_and_redirects_are_not_followed(settings: Any, monkeypatch: Any) -> None:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    trap = Silent()
    server = Silent(f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{trap.port}/\r\nContent-Length: 0\r\n\r\n".encode())
    try:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
        answer = send_once(f"http://127.0.0.1:{server.port}/", b"x", {}, tls=Tls(), deadline=5, limit=10)
        assert (answer.status, len(server.seen), trap.seen) == (302, 1, [])
    finally:
        server.close()
        trap.close()


def test_only_so_much_of_an_answer_is_read(settings: Any) -> None:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    server = Silent(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"y" * 100000)
    try:
        assert send_once(f"http://127.0.0.1:{server.port}/", b"x", {}, tls=Tls(), deadline=5, limit=100).body == b"y" * 100
    finally:
        server.close()


def test_a_peer_that_sends_a_byte_now_and_then_is_left_at_the_deadline(settings: Any) -> None:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            peer, _ = listener.accept()
            with peer:
                try:
                    while not over.wait(0.05):
                        peer.sendall(b"H")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(RemoteAway, match="in time"):
                send_once(f"http://127.0.0.1:{listener.getsockname()[1]}/", b"", {}, tls=Tls(), deadline=0.5, limit=10)
        finally:
            over.set()
            thread.join(10)
