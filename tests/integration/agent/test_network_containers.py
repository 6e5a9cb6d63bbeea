"""Networks and volumes as real containers see them, through the whole agent below the link."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from dataclasses import replace

import pytest

from agent.protocol.spec import ContainerSpec, MountSpec, MountType, NetworkMode, NetworkSpec, PortSpec
from agent.protocol.states import ContainerState
from tests.integration.agent.test_containers import Bench, bench

__all__ = ["bench"]
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]

WEB = ("sh", "-c", "echo hello from $(hostname) > /data/index.html; exec busybox httpd -f -p 80 -h /data")


async def start(bench: Bench, name: str, *args: str, **changes: object) -> str:
    spec = replace(ContainerSpec(image="busybox", args=args, networks=("blue",), stop_grace=0.2), **changes)  # type: ignore[arg-type]
    container_id = await bench.containers.create(spec, image_id=bench.image, name=name)
    await bench.containers.start(container_id)
    return container_id


def fetch(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4096), b""))


async def fetch_when_up(port: int) -> bytes:
    async with asyncio.timeout(10):
        while True:
            try:
                return await asyncio.to_thread(fetch, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)


async def test_a_service_is_found_by_name_and_by_its_published_port(bench: Bench) -> None:
    bench.networks.create(NetworkSpec("blue"))
    web = await start(
        bench, "web", *WEB, hostname="w1", ports=(PortSpec(80),), mounts=(MountSpec(MountType.VOLUME, "/data", "site"),)
    )
    live = bench.containers.live(web)
    assert live is not None
    assert b"hello from w1" in await fetch_when_up(int(live.ports[0]["host_port"]))
    client = await start(bench, "client", "sh", "-c", "busybox wget -qO- http://web/; cat /etc/resolv.conf; ip -4 addr show eth0")
    await bench.ended(client)
    said = "".join(await bench.output(client))
    assert "hello from w1" in said
    assert "nameserver 127.0.0.11" in said
    assert bench.networks.inspect(web).endpoints[0].address.rsplit(".", 1)[0] in said


async def test_a_restart_of_the_agent_is_not_noticed(bench: Bench) -> None:
    bench.networks.create(NetworkSpec("blue"))
    web = await start(bench, "web", *WEB, ports=(PortSpec(80),))
    live = bench.containers.live(web)
    assert live is not None
    port = int(live.ports[0]["host_port"])
    await fetch_when_up(port)
    await bench.close()
    assert b"hello" in await asyncio.to_thread(fetch, port), "with no agent at all"
    await bench.open()
    assert b"hello" in await asyncio.to_thread(fetch, port)
    client = await start(bench, "client", "busybox", "wget", "-qO-", "http://web/")
    await bench.ended(client)
    assert "hello" in "".join(await bench.output(client))


async def test_a_stopped_container_gives_everything_back(bench: Bench) -> None:
    bench.networks.create(NetworkSpec("blue"))
    web = await start(bench, "web", *WEB, ports=(PortSpec(80, 18080),))
    await fetch_when_up(18080)
    await bench.containers.stop(web)
    await bench.until(web, lambda live: live.state is ContainerState.EXITED)
    assert not bench.networks.known(web)
    other = await start(bench, "other", *WEB, ports=(PortSpec(80, 18080),))
    assert b"hello" in await fetch_when_up(18080)
    assert bench.networks.inspect(other).endpoints
    await bench.containers.remove(other, force=True)
    await bench.containers.start(web)
    assert b"hello" in await fetch_when_up(18080)


async def test_who_stops_or_starts_what_has_just_ended_waits_for_its_network(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiring, go_on, order = bench.containers._wiring, threading.Event(), []
    disconnect, connect, now = wiring.disconnect, wiring.connect, bench.containers._now
    heard = asyncio.Event()

    def slow(container_id: str) -> None:
        assert go_on.wait(30)
        disconnect(container_id)
        order.append("left")

    def joined(*words: object) -> None:
        order.append("joined")
        connect(*words)  # type: ignore[arg-type]  # passed on as they come

    async def noted(state: dict[str, object]) -> None:
        heard.set()
        await now(state)

    bench.networks.create(NetworkSpec("blue"))
    web = await start(bench, "web", *WEB, ports=(PortSpec(80, 18080),))
    await fetch_when_up(18080)
    monkeypatch.setattr(wiring, "disconnect", slow)
    monkeypatch.setattr(wiring, "connect", joined)
    await bench.containers.kill(web, signal.SIGKILL)
    await bench.ended(web)
    monkeypatch.setattr(bench.containers, "_now", noted)
    stopping = asyncio.create_task(bench.containers.stop(web))
    stopping.add_done_callback(lambda _: order.append("stopped"))
    await heard.wait()
    starting = asyncio.create_task(bench.containers.start(web))
    await asyncio.to_thread(lambda: None)  # whoever does not wait comes this far
    go_on.set()
    await asyncio.gather(stopping, starting)
    assert order[0] == "left"
    assert sorted(order) == ["joined", "left", "stopped"]
    assert b"hello" in await fetch_when_up(18080), "the new connection stays"


async def test_host_mode_shares_the_nodes_network(bench: Bench) -> None:
    host = await start(bench, "host", "ip", "link", networks=(), network_mode=NetworkMode.HOST)
    await bench.ended(host)
    assert "eth0" not in "".join(await bench.output(host))
    assert not bench.networks.known(host)
