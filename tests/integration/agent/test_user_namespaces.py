"""Containers with a user namespace: ids of their tenant's own on the host, layers and volumes as if there were none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.containers.errors import IdRangesExhausted
from agent.containers.idranges import SIZE, IdRanges, NodeRange
from agent.protocol.codec import InvalidSpec
from agent.protocol.spec import ContainerSpec, MountSpec, MountType, NetworkMode
from tests.integration.agent.test_containers import Bench
from tests.nodes import PrivateNode

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]
FIRST = NodeRange().first


@pytest.fixture
async def bench(private_node: PrivateNode) -> AsyncIterator[Bench]:
    bench = Bench(private_node.home, private_node.cgroup)
    await bench.open()
    bench.image = await bench.load()
    yield bench
    await bench.end()


def spec_of(bench: Bench, script: str, **changes: object) -> ContainerSpec:
    return replace(bench.spec, args=("sh", "-c", script), user_namespace=True, **changes)  # type: ignore[arg-type]


async def started(bench: Bench, tenant: str, script: str, **changes: object) -> str:
    spec = spec_of(bench, script, **changes)
    container_id = await bench.containers.create(spec, image_id=bench.image, tenant=tenant)
    await bench.containers.start(container_id)
    return container_id


async def owner(bench: Bench, container_id: str) -> int:
    live = await bench.until(container_id, lambda live: live.running)
    return os.stat(f"/proc/{live.pid}").st_uid


async def test_each_tenant_has_ids_of_its_own_and_keeps_them(bench: Bench) -> None:
    first = await started(bench, "red", "sleep 1000")
    second = await started(bench, "red", "sleep 1000", user="web")
    other = await started(bench, "blue", "sleep 1000")
    plain = await bench.run()
    assert [await owner(bench, each) for each in (first, second, other, plain)] == [FIRST, FIRST + 33, FIRST + SIZE, 0]
    await bench.close()
    await bench.open()
    assert await owner(bench, await started(bench, "blue", "sleep 1000")) == FIRST + SIZE
    assert await owner(bench, await started(bench, "green", "sleep 1000")) == FIRST + 2 * SIZE


async def test_two_that_are_made_at_once_never_share(bench: Bench) -> None:
    bench.containers._making._id_ranges = IdRanges(bench.home / "one", NodeRange(FIRST, 1))  # room for one tenant
    made = [
        bench.containers.create(spec_of(bench, "sleep 1000"), image_id=bench.image, tenant=tenant) for tenant in ("red", "blue")
    ]
    results = await asyncio.gather(*made, return_exceptions=True)
    assert sorted(isinstance(result, IdRangesExhausted) for result in results) == [False, True]


async def test_its_files_are_those_of_any_other_container(bench: Bench) -> None:
    volume = MountSpec(MountType.VOLUME, "/data", "shared")
    script = "id -u; ls -ln /bin/busybox; echo kept > /data/f; echo x > /made; ls -ln /data/f /made"
    container_id = await started(bench, "red", script, mounts=(volume,))
    assert (await bench.ended(container_id)).exit_code == 0
    lines = await bench.output(container_id)
    assert lines[0] == "0\n"
    assert [line.split()[2:4] for line in lines[1:]] == [["0", "0"]] * 3
    assert (bench.home / "volumes/shared/_data/f").stat().st_uid == 0
    after = await bench.run("cat", "/data/f", mounts=(volume,))
    await bench.ended(after)
    assert await bench.output(after) == ["kept\n"]


async def test_a_path_of_the_node_is_not_his(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("of the node\n")
    tmp_path.chmod(0o755)
    bind = MountSpec(MountType.BIND, "/host", str(tmp_path))
    container_id = await started(bench, "red", "ls -ln /host/f; cat /host/f; echo x > /host/f", mounts=(bind,))
    assert (await bench.ended(container_id)).exit_code != 0
    listed, read, *_ = await bench.output(container_id, stderr=False)
    assert (listed.split()[2], read) == ("65534", "of the node\n")
    assert (tmp_path / "f").read_text() == "of the node\n"


async def test_it_serves_on_a_low_port_and_execs(bench: Bench) -> None:
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; sleep 1000"
    container_id = await started(bench, "red", script, network_mode=NetworkMode.BRIDGE)
    await bench.until(container_id, lambda live: live.running)
    execution = await bench.containers.exec(
        container_id, command=("cat", "/proc/self/uid_map"), env={}, user="", cwd="", tty=False, stdin=False
    )
    text = b"".join([data async for _, data in execution.chunks()])
    execution.close()
    assert text.split() == [b"0", str(FIRST).encode(), str(SIZE).encode()]
    assert await bench.output(container_id) == ["0\n"]


async def test_its_output_can_be_opened_by_name(bench: Bench) -> None:
    script = "echo one > /dev/stdout; sleep 1000"  # as servers do with their logs
    container_id = await started(bench, "red", script, user="web")
    async with asyncio.timeout(20):
        while await bench.output(container_id) != ["one\n"]:
            await asyncio.sleep(0.02)
    for user in ("root", "web"):
        execution = await bench.containers.exec(
            container_id, command=("sh", "-c", "echo two > /dev/stdout"), env={}, user=user, cwd="", tty=False, stdin=False
        )
        assert b"".join([data async for _, data in execution.chunks()]) == b"two\n"
        execution.close()


async def test_privileged_is_refused(bench: Bench) -> None:
    spec = spec_of(bench, "true", privileged=True)
    with pytest.raises(InvalidSpec, match="privileged"):
        await bench.containers.create(spec, image_id=bench.image)
    assert len(bench.containers.records) == 0
