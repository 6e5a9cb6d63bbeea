from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from agent.supervisor import attachments
from agent.supervisor.attachments import LIMIT, Inlet, Outlet
from agent.supervisor.loop import READ, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Client:
    """One outlet and the reading end of its pipe."""

    def __init__(self, loop: Loop) -> None:
        self.read, write = os.pipe()
        self.calls: list[str] = []
        self.outlet = Outlet(loop, write, lambda: self.calls.append("eased"), self._gone)
        self._loop = loop

    def _gone(self) -> None:
        self.calls.append("gone")
        self._loop.stop()


def test_a_client_that_reads_gets_everything_and_the_end(loop: Loop) -> None:
    client = Client(loop)
    data = os.urandom(3 << 20)
    client.outlet.feed(data)
    assert client.outlet.full
    client.outlet.end()
    got = bytearray()

    def take(_events: int) -> None:
        piece = os.read(client.read, 65536)
        got.extend(piece)
        if not piece:
            loop.stop()

    loop.watch(client.read, READ, take)
    loop.run()
    assert bytes(got) == data
    assert client.calls == ["eased"]
    assert client.outlet.fd == -1
    loop.forget(client.read)
    os.close(client.read)


def test_a_client_that_never_reads_is_cut_off(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "STALL", 0.05)
    client = Client(loop)
    client.outlet.feed(bytes(2 * LIMIT))
    loop.run()
    assert client.calls == ["gone"]
    assert client.outlet.fd == -1
    client.outlet.feed(b"more")  # nobody is there any more
    os.close(client.read)


def test_a_client_that_closes_is_noticed_without_a_write(loop: Loop) -> None:
    client = Client(loop)
    os.close(client.read)
    loop.run()
    assert client.calls == ["gone"]


def test_what_is_typed_waits_for_a_slow_container_and_then_ends(loop: Loop) -> None:
    container, write = os.pipe()
    inlet = Inlet(loop, write, once=True)
    client_read, client_write = os.pipe()
    inlet.join(client_read)
    data = os.urandom(60_000)
    os.set_blocking(client_write, False)
    for _round in range(4):  # more than both pipes hold: some of it is refused at the client
        try:
            os.write(client_write, data)
        except BlockingIOError:
            break
    loop.later(0.05, loop.stop)
    loop.run()
    os.close(client_write)
    got = bytearray()

    def take(_events: int) -> None:
        piece = os.read(container, 65536)
        got.extend(piece)
        if not piece:
            loop.stop()

    loop.watch(container, READ, take)
    loop.run()
    assert bytes(got[:60_000]) == data
    assert inlet.fd == -1
    loop.forget(container)
    os.close(container)
