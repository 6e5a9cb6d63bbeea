"""Containers on other graph drivers than the usual one, and nodes that change theirs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.containers.errors import OtherDriverRunning
from agent.protocol.spec import MountSpec, MountType
from agent.storage.errors import SizeUnsupported
from agent.sys import fuse
from tests.integration.agent.test_containers import Bench
from tests.nodes import PrivateNode

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]


@pytest.fixture
async def node(private_node: PrivateNode) -> AsyncIterator[Bench]:
    bench = Bench(private_node.home, private_node.cgroup)
    yield bench
    await bench.end()


def daemons(home: Path) -> list[int]:
    """Processes of fuse-overlayfs that serve this node."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                words = (directory / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if words.startswith(b"fuse-overlayfs\0") and os.fsencode(home) in words:
                found.append(int(directory.name))
    return found


async def settled(home: Path, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(daemons(home)) != count:
        assert time.monotonic() < deadline, f"{len(daemons(home))} daemons instead of {count}"
        await asyncio.sleep(0.02)


@pytest.mark.skipif(fuse.program() is None, reason="needs fuse-overlayfs")
async def test_a_container_on_fuse_overlayfs(node: Bench) -> None:
    await node.open("fuse-overlayfs")
    node.image = await node.load()
    container_id = await node.run("id", "-u", user="web", mounts=(MountSpec(MountType.VOLUME, "/data", "files"),))
    await node.ended(container_id)
    assert await node.output(container_id) == ["33\n"]  # found in the image, which was mounted nowhere then
    again = await node.run("sh", "-c", "echo once >> /count; wc -l < /count")
    for runs in (1, 2):  # each start has a mount and a daemon of its own; what was written stays
        await node.ended(again)
        assert (await node.output(again))[-1] == f"{runs}\n"
        await settled(node.home, 0)
        if runs == 1:
            await node.containers.start(again)
    running = await node.run("sleep", "1000")
    await settled(node.home, 1)
    await node.close()
    await node.open("fuse-overlayfs")  # the agent may go: the daemon belongs to the mount
    execution = await node.containers.exec(running, command=("id", "-u"), env={}, user="web", cwd="", tty=False, stdin=False)
    assert b"".join([data async for _, data in execution.chunks()]) == b"33\n"
    execution.close()
    await node.containers.remove(running, force=True)
    await settled(node.home, 0)


async def test_switching_hides_containers_and_images_and_brings_them_back(node: Bench) -> None:
    await node.open("overlay2")
    node.image = await node.load()
    kept = await node.run("sh", "-c", "echo mine > /file")
    await node.ended(kept)
    await node.close()

    await node.open("vfs")
    assert list(node.containers.records) == []
    assert node.images.list() == []
    node.image = await node.load()
    other = await node.run("true")
    await node.ended(other)
    assert node.containers.live(kept) is None
    await node.containers.remove(other)
    await node.close()

    await node.open("overlay2")
    assert [record.id for record in node.containers.records] == [kept]
    assert len(node.images.list()) == 1
    await node.containers.start(kept)  # its files and the supervisor's knowledge of it were left alone
    assert (await node.ended(kept)).exit_code == 0


async def test_a_running_container_is_not_hidden(node: Bench) -> None:
    await node.open("overlay2")
    node.image = await node.load()
    running = await node.run("sleep", "1000")
    await node.close()
    with pytest.raises(OtherDriverRunning, match="--graph-driver overlay2"):
        await node.open("vfs")
    await node.close()
    await node.open("overlay2")
    live = node.containers.live(running)
    assert live is not None
    assert live.running


async def test_a_size_that_the_driver_cannot_keep_is_refused(node: Bench) -> None:
    await node.open("overlay2")
    node.image = await node.load()
    with pytest.raises(SizeUnsupported, match="btrfs, zfs or devicemapper"):
        await node.run("true", storage_size=1 << 30)
    assert list(node.containers.records) == []
