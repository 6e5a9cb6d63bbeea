"""Pushing through a line that breaks: a TCP proxy before a real registry cuts uploads at random bytes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.images.distribution import RegistryEndpoint
from agent.images.errors import RegistryUnavailable
from agent.images.pull import pull
from agent.images.push import push
from agent.protocol.oci import Reference
from tests.integration.agent.images_fixtures import BUSYBOX, REGISTRY_PROGRAM, layered_image, node, running_registry

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers keep their owners"),
    pytest.mark.skipif(not (REGISTRY_PROGRAM and BUSYBOX), reason="needs docker-registry and busybox-static"),
]


class CuttingProxy:
    """Passes bytes both ways; the next `cuts` connections die after a random number of bytes sent by the client."""

    def __init__(self, target: str, cuts: int, longest: int) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.cuts = cuts
        self._longest = longest
        self._random = random.Random(11)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        allowance = 1 << 40
        if self.cuts > 0:
            self.cuts -= 1
            allowance = self._random.randint(0, self._longest)
        upstream_reader, upstream_writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            back = asyncio.create_task(self._copy(upstream_reader, writer, 1 << 40))
            await self._copy(reader, upstream_writer, allowance)
            back.cancel()
        finally:
            for side in (writer, upstream_writer):
                side.transport.abort()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowance: int) -> None:
        try:
            while allowance > 0 and (data := await reader.read(min(65536, allowance))):
                allowance -= len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return


@asynccontextmanager
async def cutting_proxy(target: str, cuts: int, longest: int) -> AsyncIterator[tuple[CuttingProxy, RegistryEndpoint]]:
    proxy = CuttingProxy(target, cuts, longest)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, RegistryEndpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(attempt: int, *, at_least: float = 0.0) -> None:
        await asyncio.sleep(0)

    for module in ("distribution", "push", "download"):
        monkeypatch.setattr(f"agent.images.{module}.pause", at_once)


async def test_an_upload_goes_on_where_it_broke(tmp_path: Path, registry: str) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    image = layered_image(ours, "x:v1", 2, 2_000_000)
    async with cutting_proxy(registry, 12, 900_000) as (proxy, endpoint):
        digest = await push(Reference.parse("x:v1"), store=ours, endpoint=endpoint, chunk=500_000)
        assert proxy.cuts == 0
    pulled = await pull(Reference.parse("x:v1"), store=theirs, endpoint=RegistryEndpoint(f"http://{registry}"))
    assert (pulled.id, pulled.manifest) == (image.id, str(digest))


async def test_a_registry_that_is_away_is_reported(tmp_path: Path, registry: str) -> None:
    ours = node(tmp_path / "a")
    layered_image(ours, "x:v2", 1)
    async with cutting_proxy(registry, 10_000, 0) as (_, endpoint):
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            await push(Reference.parse("x:v2"), store=ours, endpoint=endpoint)
