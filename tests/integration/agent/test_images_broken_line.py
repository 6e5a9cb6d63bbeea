"""Pulling over a line that breaks, from a registry that challenges, lies or is away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.images import distribution
from agent.images.distribution import RegistryEndpoint
from agent.images.errors import RegistryUnauthenticated, RegistryUnavailable, RegistryUntrusted
from agent.images.image import Image
from agent.images.images import ImageStore
from agent.images.pull import pull
from agent.protocol.oci import Digest, Reference
from agent.storage.errors import DigestMismatch
from tests.integration.agent.cutting_registry import CuttingRegistry, cutting_registry
from tests.integration.agent.images_fixtures import BUSYBOX, layered_image, node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers keep their owners"),
    pytest.mark.skipif(not BUSYBOX, reason="needs busybox-static"),
]
REF = Reference.parse("x:v1")
Line = tuple[CuttingRegistry, str]
Source = tuple[ImageStore, Image]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    store = node(tmp_path_factory.mktemp("source"))
    return store, layered_image(store, "x:v1", 2, 1_500_000)


@pytest.fixture
def line(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    async def at_once(attempt: int, *, at_least: float = 0.0) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(distribution, "pause", at_once)
    monkeypatch.setattr("agent.images.download.pause", at_once)
    store, image = source
    with cutting_registry(tmp_path) as (server, pem):
        server.files["/v2/x/manifests/v1"] = (image.manifest_type, store.content.read(Digest.parse(image.manifest)))
        for text in (image.id, *(str(layer.digest) for layer in image.layers)):
            server.files[f"/v2/x/blobs/{text}"] = ("application/octet-stream", store.content.read(Digest.parse(text)))
        yield server, pem


async def test_resumes_where_the_connection_broke(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    server.cuts = 25
    store = node(tmp_path / "data")
    image = await pull(REF, store=store, endpoint=RegistryEndpoint(server.url, ca_pem=pem))
    assert image.id == source[1].id
    assert server.cuts == 0
    assert len(server.ranges) >= 10
    # Nothing that had arrived was fetched twice: TLS and socket buffers may hold back a little at each cut.
    assert server.served < 2 * sum(layer.size for layer in image.layers)
    assert os.listdir(store.content.root + "/ingest") == []


async def test_a_registry_without_ranges_starts_over(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    server.cuts, server.ignore_range = 4, True
    image = await pull(REF, store=node(tmp_path / "data"), endpoint=RegistryEndpoint(server.url, ca_pem=pem))
    assert image.id == source[1].id


async def test_a_new_agent_goes_on_with_a_partial_blob(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    layer = source[1].layers[-1]
    whole = source[0].content.read(layer.digest)
    store = node(tmp_path / "data")
    with store.content.ingest(layer.digest) as ingest:
        ingest.write(whole[:1_000_000])
    again = node(tmp_path / "data")
    await pull(REF, store=again, endpoint=RegistryEndpoint(server.url, ca_pem=pem))
    assert server.ranges == ["bytes=1000000-"]


async def test_a_spoilt_partial_blob_is_fetched_anew(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    store = node(tmp_path / "data")
    with store.content.ingest(source[1].layers[-1].digest) as ingest:
        ingest.write(b"rubbish" * 1000)
    endpoint = RegistryEndpoint(server.url, ca_pem=pem)
    with pytest.raises(DigestMismatch):
        await pull(REF, store=store, endpoint=endpoint)
    assert (await pull(REF, store=store, endpoint=endpoint)).id == source[1].id


async def test_basic_credentials_buy_a_token(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    server.credentials = "alice:wonder"
    endpoint = RegistryEndpoint(server.url, ca_pem=pem, username="alice", password="wonder")
    assert (await pull(REF, store=node(tmp_path / "a"), endpoint=endpoint)).id == source[1].id
    assert server.tokens >= 1
    with pytest.raises(RegistryUnauthenticated):
        await pull(REF, store=node(tmp_path / "b"), endpoint=replace(endpoint, password="wrong"))


async def test_the_callers_token_source_is_asked_with_the_scope(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    server.credentials = "nobody:knows"
    scopes: list[str] = []

    async def tokens(scope: str) -> str | None:
        scopes.append(scope)
        return "stale" if len(scopes) == 1 else "secret"

    endpoint = RegistryEndpoint(server.url, ca_pem=pem, token_source=tokens)
    assert (await pull(REF, store=node(tmp_path / "a"), endpoint=endpoint)).id == source[1].id
    assert set(scopes) == {"repository:x:pull"}
    assert server.tokens == 0


async def test_an_unknown_authority_is_not_believed(tmp_path: Path, line: Line) -> None:
    server, _ = line
    (tmp_path / "other").mkdir()
    with cutting_registry(tmp_path / "other") as (_, other_pem):
        for ca_pem in (None, other_pem):
            with pytest.raises(RegistryUntrusted, match="certificate"):
                await pull(REF, store=node(tmp_path / "a"), endpoint=RegistryEndpoint(server.url, ca_pem=ca_pem))


async def test_a_busy_registry_is_asked_again(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    server.unavailable = 3
    assert (await pull(REF, store=node(tmp_path / "a"), endpoint=RegistryEndpoint(server.url, ca_pem=pem))).id == source[1].id
    server.unavailable = 1000
    with pytest.raises(RegistryUnavailable):
        await pull(REF, store=node(tmp_path / "b"), endpoint=RegistryEndpoint(server.url, ca_pem=pem))


@pytest.mark.parametrize("what", ["longer", "other"])
async def test_wrong_bytes_never_become_a_blob(tmp_path: Path, line: Line, source: Source, what: str) -> None:
    server, pem = line
    path = f"/v2/x/blobs/{source[1].layers[1].digest}"
    kind, data = server.files[path]
    server.files[path] = (kind, data + b"x" if what == "longer" else data[:-1] + bytes([data[-1] ^ 1]))
    store = node(tmp_path / "a")
    with pytest.raises(DigestMismatch):
        await pull(REF, store=store, endpoint=RegistryEndpoint(server.url, ca_pem=pem))
    assert not store.content.has(source[1].layers[1].digest)
    assert store.list() == []


async def test_a_cancelled_pull_leaves_the_other_its_download(tmp_path: Path, line: Line, source: Source) -> None:
    server, pem = line
    store = node(tmp_path / "a")
    endpoint = RegistryEndpoint(server.url, ca_pem=pem)
    started = asyncio.Event()
    first = asyncio.create_task(pull(REF, store=store, endpoint=endpoint, progress=lambda event: started.set()))
    second = asyncio.create_task(pull(REF, store=store, endpoint=endpoint))
    await started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).id == source[1].id
