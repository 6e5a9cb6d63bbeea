"""A disk that fills up: the ballast, what the node says of it, and images that make room."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agent.images.create import import_rootfs
from agent.protocol.oci import Reference
from agent.sys import files
from agent.sys.ballast import Ballast
from agent.upkeep import DISK_FULL, UNUSED_FOR, Upkeep
from tests.integration.agent.test_containers import Bench, rootfs
from tests.nodes import PrivateNode, isolate

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and namespaces")]
MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    isolate()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(directory: Path) -> Path:
    """Every last byte."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 65536):
            pass
    assert not os.statvfs(directory).f_bavail
    return path


@pytest.fixture
async def bench(private_node: PrivateNode) -> AsyncIterator[Bench]:
    bench = Bench(private_node.home, private_node.cgroup)
    await bench.open()
    bench.image = await bench.load()
    yield bench
    await bench.end()


async def test_state_is_written_on_a_full_disk_and_the_node_says_so_until_there_is_room(bench: Bench, small_disk: Path) -> None:
    told: list[tuple[str, ...]] = []
    upkeep = Upkeep(small_disk, bench.containers, bench.images, wanted=set, changed=lambda: told.append(upkeep.problems))
    upkeep._ballast = Ballast(str(small_disk / "ballast"), MIB)
    files.when_full(upkeep._ballast.give)
    try:
        await upkeep.look_at_disk()
        assert upkeep.problems == ()
        filler = fill(small_disk)
        files.write_durable(small_disk / "state.json", b"x" * 200_000)
        assert (small_disk / "state.json").stat().st_size == 200_000
        await upkeep.look_at_disk()
        assert upkeep.problems == (DISK_FULL,)
        with pytest.raises(OSError, match="No space"):
            files.write_durable(small_disk / "more.json", b"x" * 2 * MIB)
        filler.unlink()
        await upkeep.look_at_disk()
        assert upkeep.problems == ()
        assert told == [(DISK_FULL,), ()]
    finally:
        await upkeep.stop()


async def test_unused_images_go_when_the_disk_is_full_and_only_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = await bench.run()
    second = await asyncio.to_thread(
        import_rootfs, rootfs(), Reference.parse("assigned"), store=bench.images, changes=["ENV A=1"]
    )
    third = await asyncio.to_thread(import_rootfs, rootfs(), Reference.parse("idle"), store=bench.images, changes=["ENV A=2"])
    upkeep = Upkeep(bench.home, bench.containers, bench.images, wanted=lambda: {second.id}, changed=lambda: None)
    try:
        monkeypatch.setattr(upkeep, "_fullness", lambda: 0.9)
        assert await upkeep.prune_images(now=1000.0) == [], "nobody knows yet for how long they have been unused"
        monkeypatch.setattr(upkeep, "_fullness", lambda: 0.5)
        assert await upkeep.prune_images(now=1000.0 + 2 * UNUSED_FOR) == []
        monkeypatch.setattr(upkeep, "_fullness", lambda: 0.9)
        assert await upkeep.prune_images(now=1000.0 + 2 * UNUSED_FOR) == [third.id]
        assert {image.id for image in bench.images.list()} == {bench.image, second.id}
        assert bench.containers.get(held).image_id == bench.image
    finally:
        await upkeep.stop()


async def test_a_network_that_somebody_tore_is_mended(bench: Bench) -> None:
    from agent.protocol.spec import NetworkMode

    container_id = await bench.run(network_mode=NetworkMode.BRIDGE)
    assert await asyncio.to_thread(bench.networks.intact)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert not await asyncio.to_thread(bench.networks.intact)
    await bench.containers.mend_network()
    assert await asyncio.to_thread(bench.networks.intact)
    assert bench.networks.inspect(container_id).endpoints, "the running container keeps its place"


async def test_mending_spares_a_container_that_is_just_being_made(bench: Bench) -> None:
    from agent.protocol.spec import NetworkMode

    async def mend() -> None:
        while True:
            await bench.containers.mend_network(always=True)

    mending = asyncio.create_task(mend())
    try:
        for _ in range(5):
            container_id = await bench.run("true", network_mode=NetworkMode.BRIDGE)
            live = await bench.ended(container_id)
            assert live.exit_code == 0
    finally:
        mending.cancel()
        await asyncio.gather(mending, return_exceptions=True)
