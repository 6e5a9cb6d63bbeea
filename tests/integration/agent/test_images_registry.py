"""Push and pull against a real registry, with skopeo as the second opinion."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.images.archive import load
from agent.images.distribution import RegistryClient, RegistryEndpoint
from agent.images.errors import ImageUnknown
from agent.images.manifests import encode
from agent.images.pull import pull
from agent.images.push import push
from agent.images.save import DOCKER_ARCHIVE, save, save_directory
from agent.protocol.oci import MEDIA_OCI_INDEX, Digest, ManifestInvalid, Platform, Reference
from agent.storage.errors import DigestMismatch, NoSpace
from tests.contract.graph_driver_suite import signature
from tests.contract.mounting import mounted
from tests.integration.agent.images_fixtures import (
    BUSYBOX,
    REGISTRY_PROGRAM,
    busybox_image,
    layered_image,
    node,
    running_registry,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers keep their owners"),
    pytest.mark.skipif(not (REGISTRY_PROGRAM and BUSYBOX), reason="needs docker-registry and busybox-static"),
]
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


@pytest.fixture(scope="module")
def registry_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(registry_root: Path) -> Iterator[str]:
    with running_registry(registry_root) as host:
        yield host


@pytest.fixture
def endpoint(registry: str) -> RegistryEndpoint:
    return RegistryEndpoint(f"http://{registry}")


def _skopeo(words: tuple[str, ...]) -> str:
    return subprocess.run(["skopeo", *words], check=True, capture_output=True, text=True).stdout


async def skopeo(*words: str) -> str:
    return await asyncio.to_thread(_skopeo, words)


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
async def test_round_trip_keeps_everything(tmp_path: Path, endpoint: RegistryEndpoint, driver: str) -> None:
    ours, theirs = node(tmp_path / "a", driver), node(tmp_path / "b")
    name = f"trip/{driver}:v1"
    pushed = layered_image(ours, name)
    digest = await push(Reference.parse(name), store=ours, endpoint=endpoint)
    events: list[dict[str, Any]] = []
    pulled = await pull(Reference.parse(name), store=theirs, endpoint=endpoint, progress=events.append)
    assert pulled.id == pushed.id
    assert pulled.manifest == str(digest)
    assert pulled.repo_tags == (name,)
    assert pulled.repo_digests == (f"trip/{driver}@{digest}",)
    assert pulled.run_config["Cmd"] == ["/bin/sh"]
    assert pulled.size == pushed.size > 1_000_000
    assert {event["status"] for event in events} == {"downloading", "extracting", "done"}
    with mounted(ours.driver.view(list(pushed.chain)), str(tmp_path / "m")):
        expected = signature(str(tmp_path / "m"))
    with mounted(theirs.driver.view(list(pulled.chain)), str(tmp_path / "m")):
        assert signature(str(tmp_path / "m")) == expected
        words = ["chroot", str(tmp_path / "m"), "/bin/sh", "-c", "echo it runs"]
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=True)
        assert done.stdout == b"it runs\n"


async def test_second_pull_fetches_nothing(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    store = node(tmp_path / "a")
    layered_image(store, "twice:v1", 2)
    await push(Reference.parse("twice:v1"), store=store, endpoint=endpoint)
    events: list[dict[str, Any]] = []
    await pull(Reference.parse("twice:v1"), store=store, endpoint=endpoint, progress=events.append)
    assert [event["status"] for event in events] == ["exists"] * 3


async def test_push_again_uploads_nothing_and_a_sibling_is_mounted(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    store = node(tmp_path / "a")
    image = layered_image(store, "first:v1", 1)
    await push(Reference.parse("first:v1"), store=store, endpoint=endpoint)
    events: list[dict[str, Any]] = []
    await push(Reference.parse("first:v1"), store=store, endpoint=endpoint, progress=events.append)
    assert {event["status"] for event in events} == {"exists"}
    store.tag(image.id, Reference.parse("second:v1"))
    events.clear()
    await push(Reference.parse("second:v1"), store=store, endpoint=endpoint, progress=events.append)
    assert {event["status"] for event in events} == {"mounted"}


async def test_loading_a_pulled_image_keeps_its_manifest(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    layered_image(ours, "kept:v1", 1)
    digest = await push(Reference.parse("kept:v1"), store=ours, endpoint=endpoint)
    await pull(Reference.parse("kept:v1"), store=theirs, endpoint=endpoint)
    (tmp_path / "saved.tar").write_bytes(b"".join(save(ours, ["kept:v1"], DOCKER_ARCHIVE)))
    loaded = load(str(tmp_path / "saved.tar"), theirs)[0]
    assert loaded.manifest == str(digest)
    assert await push(Reference.parse("kept:v1"), store=theirs, endpoint=endpoint) == digest
    theirs.gc()  # the archive's plain layers were only visitors
    assert {str(found) for found in theirs.content.digests()} == {
        loaded.id,
        loaded.manifest,
        *(str(layer.digest) for layer in loaded.layers),
    }


async def test_small_pieces(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    image = layered_image(ours, "pieces:v1", 1)
    await push(Reference.parse("pieces:v1"), store=ours, endpoint=endpoint, chunk=70_001)
    assert (await pull(Reference.parse("pieces:v1"), store=theirs, endpoint=endpoint)).id == image.id


async def test_pull_by_digest_names_only_the_digest(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    busybox_image(ours, "pinned:v1")
    digest = await push(Reference.parse("pinned:v1"), store=ours, endpoint=endpoint)
    image = await pull(Reference.parse(f"pinned@{digest}"), store=theirs, endpoint=endpoint)
    assert image.repo_tags == ()
    assert theirs.get(f"pinned@{digest}") == image
    assert theirs.get(image.id[7:19]) == image


async def test_unknown_image(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    with pytest.raises(ImageUnknown):
        await pull(Reference.parse("no/such:v1"), store=node(tmp_path / "a"), endpoint=endpoint)


async def test_wrong_digest_is_refused(tmp_path: Path, registry_root: Path, endpoint: RegistryEndpoint) -> None:
    store = node(tmp_path / "a")
    busybox_image(store, "forged:v1")
    digest = await push(Reference.parse("forged:v1"), store=store, endpoint=endpoint)
    # The registry's disk changes under it: it serves other bytes under the manifest's digest.
    data = registry_root / "data/docker/registry/v2/blobs/sha256" / digest.hex[:2] / digest.hex / "data"
    data.write_bytes(data.read_bytes().replace(b"schemaVersion", b"schemaVersioN"))
    with pytest.raises((DigestMismatch, ManifestInvalid, ImageUnknown)):
        await pull(Reference.parse(f"forged@{digest}"), store=node(tmp_path / "b"), endpoint=endpoint)


async def test_no_space(tmp_path: Path, endpoint: RegistryEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    layered_image(ours, "big:v1", 1)
    await push(Reference.parse("big:v1"), store=ours, endpoint=endpoint)
    monkeypatch.setattr(theirs.content, "free_bytes", lambda: 300_000)
    with pytest.raises(NoSpace):
        await pull(Reference.parse("big:v1"), store=theirs, endpoint=endpoint)


@needs_skopeo
async def test_skopeo_copies_what_we_push(tmp_path: Path, registry: str, endpoint: RegistryEndpoint) -> None:
    store = node(tmp_path / "a")
    image = layered_image(store, "to-skopeo:v1")
    digest = await push(Reference.parse("to-skopeo:v1"), store=store, endpoint=endpoint)
    await skopeo("copy", "--src-tls-verify=false", f"docker://{registry}/to-skopeo:v1", f"dir:{tmp_path}/out")
    raw = (tmp_path / "out" / "manifest.json").read_bytes()
    assert Digest.of(raw) == digest
    shown = json.loads(await skopeo("inspect", "--tls-verify=false", f"docker://{registry}/to-skopeo:v1"))
    assert shown["Digest"] == str(digest)
    assert shown["Layers"] == [str(layer.digest) for layer in store.get(image.id).layers]


@needs_skopeo
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_we_pull_what_skopeo_pushes(tmp_path: Path, registry: str, endpoint: RegistryEndpoint, compression: str) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    image = layered_image(ours, "source:v1")
    save_directory(ours, ["source:v1"], str(tmp_path / "layout"))
    name = f"from-skopeo/{compression}:v1"
    words = ["--dest-tls-verify=false", f"--dest-compress-format={compression}", "--dest-compress"]
    await skopeo("copy", *words, f"oci:{tmp_path}/layout:source:v1", f"docker://{registry}/{name}")
    shown = json.loads(await skopeo("inspect", "--tls-verify=false", f"docker://{registry}/{name}"))
    pulled = await pull(Reference.parse(name), store=theirs, endpoint=endpoint)
    assert pulled.manifest == shown["Digest"]
    assert pulled.id == image.id
    assert [str(layer.digest) for layer in pulled.layers] == shown["Layers"]


async def test_index_selects_the_platform(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    children = []
    for architecture in ("arm64", "amd64"):
        image = busybox_image(ours, f"multi:{architecture}")
        digest = await push(Reference.parse(f"multi:{architecture}"), store=ours, endpoint=endpoint)
        size = ours.content.size(digest)
        platform = {"os": "linux", "architecture": architecture}
        children.append({"mediaType": image.manifest_type, "digest": str(digest), "size": size, "platform": platform})
    raw = encode({"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": children})
    async with RegistryClient(endpoint, "multi", "pull,push") as client:
        await client.request(
            "PUT", client.url("manifests/all"), expect=(201,), headers={"Content-Type": MEDIA_OCI_INDEX}, content=raw
        )
    image = await pull(Reference.parse("multi:all"), store=theirs, endpoint=endpoint, platform=Platform("linux", "amd64"))
    assert image.manifest == children[1]["digest"]
    assert image.repo_digests == (f"multi@{Digest.of(raw)}",)
    assert theirs.content.has(Digest.of(raw))
    with pytest.raises(ManifestInvalid, match="linux/arm64, linux/amd64"):
        await pull(Reference.parse("multi:all"), store=theirs, endpoint=endpoint, platform=Platform("linux", "s390x"))


async def test_concurrent_pulls_share_downloads(tmp_path: Path, endpoint: RegistryEndpoint) -> None:
    ours, theirs = node(tmp_path / "a"), node(tmp_path / "b")
    image = layered_image(ours, "shared:v1")
    await push(Reference.parse("shared:v1"), store=ours, endpoint=endpoint)
    ours.tag(image.id, Reference.parse("shared:v2"))
    await push(Reference.parse("shared:v2"), store=ours, endpoint=endpoint)
    written: list[int] = []
    count = theirs.content.ingest

    def counting(digest: Digest) -> Any:
        written.append(1)
        return count(digest)

    theirs.content.ingest = counting  # type: ignore[method-assign]  # counts downloads
    names = ["shared:v1", "shared:v2"] * 3
    pulled = await asyncio.gather(*(pull(Reference.parse(name), store=theirs, endpoint=endpoint) for name in names))
    assert {found.id for found in pulled} == {image.id}
    assert len(written) == len(image.layers) + 1  # and the configuration
    assert theirs.get(image.id).repo_tags == ("shared:v1", "shared:v2")
