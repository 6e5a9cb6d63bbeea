"""Containers of a node, end to end below the link: images, storage, network, supervisor and runtime for real."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.containers.containers import Containers
from agent.containers.errors import ContainerNotRunning, ContainerRunning, NameInUse, NoSuchContainer
from agent.containers.live import Live
from agent.containers.logs import LogQuery
from agent.containers.wiring import Wiring
from agent.images.create import import_rootfs
from agent.images.images import ImageStore
from agent.images.store import ContentStore
from agent.network.manager import Networks
from agent.protocol.errors import WharfError
from agent.protocol.messages import STDERR, STDOUT
from agent.protocol.oci import Reference
from agent.protocol.spec import (
    ContainerSpec,
    HealthCheck,
    Isolation,
    MountSpec,
    MountType,
    NetworkMode,
    Resources,
)
from agent.protocol.states import ContainerState, Health
from agent.storage import choose, elsewhere
from agent.supervisor.client import Supervisor
from agent.volumes.store import VolumeStore
from tests.nodes import PrivateNode

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]

APPLETS = ("sh", "true", "false", "sleep", "echo", "cat", "stty", "id", "ls", "hostname", "kill", "dd", "test", "ip", "wc", "env")


def rootfs() -> io.BytesIO:
    """A small root file system around Debian's static busybox."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "root", "dev", "proc", "sys", "data"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        passwd = b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/data:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(passwd)
        tar.addfile(entry, io.BytesIO(passwd))
    buffer.seek(0)
    return buffer


class Bench:
    """A node without a link, and what tests do with it."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home
        self.name = name
        self.spec = ContainerSpec(image="busybox", args=("sh", "-c", "sleep 1000"), network_mode=NetworkMode.NONE, stop_grace=0.2)

    async def open(self, graph_driver: str | None = None, isolation: Isolation = Isolation.SHARED) -> None:
        data = str(self.home / "data")
        driver = choose(data, graph_driver)
        self.images = ImageStore(
            str(self.home / "data" / "image" / driver.name), ContentStore(str(self.home / "data" / "content")), driver
        )
        self.supervisor = await Supervisor.ensure(str(self.home / "run"), str(self.home / "supervisor"), f"/{self.name}")
        self.networks = Networks(str(self.home / "networks"), str(self.home / "run"))
        self.containers = Containers(
            self.home,
            self.supervisor,
            self.images,
            driver,
            Wiring(self.networks),
            VolumeStore(str(self.home / "volumes")),
            cgroup_parent=f"/{self.name}",
            logs_root=self.home / "supervisor",
            elsewhere=elsewhere(data, driver.name),
            isolation=isolation,
        )
        await self.containers.open()

    async def load(self) -> str:
        image = await asyncio.to_thread(import_rootfs, rootfs(), Reference.parse("busybox"), store=self.images)
        return image.id

    async def close(self) -> None:
        await self.containers.close()
        await self.supervisor.close()
        self.networks.close()

    async def end(self) -> None:
        for record in self.containers.records:
            await self.containers.remove(record.id, force=True)
        self.networks.teardown()
        await self.containers.close()
        await self.supervisor.shutdown()
        await self.supervisor.close()

    async def run(self, *command: str, **changes: object) -> str:
        """Create and start; the id."""
        spec = replace(self.spec, args=command, **changes) if command else replace(self.spec, **changes)  # type: ignore[arg-type]
        container_id = await self.containers.create(spec, image_id=self.image)
        await self.containers.start(container_id)
        return container_id

    async def until(self, container_id: str, wanted: object) -> Live:
        """Wait for `wanted(live)`, at most 10 s."""
        async with asyncio.timeout(10):
            while True:
                live = self.containers.live(container_id)
                if live is not None and callable(wanted) and wanted(live):
                    return live
                await asyncio.sleep(0.02)

    async def ended(self, container_id: str) -> Live:
        return await self.until(container_id, lambda live: live.state is ContainerState.EXITED)

    async def output(self, container_id: str, **query: object) -> list[str]:
        return [entry.text async for entry in self.containers.logs(container_id, LogQuery(**query))]  # type: ignore[arg-type]


@pytest.fixture
async def bench(private_node: PrivateNode) -> AsyncIterator[Bench]:
    bench = Bench(private_node.home, private_node.cgroup)
    await bench.open()
    bench.image = await bench.load()
    yield bench
    await bench.end()


async def test_output_exit_code_and_streams(bench: Bench) -> None:
    container_id = await bench.run("sh", "-c", "echo out; echo err >&2; exit 3")
    live = await bench.ended(container_id)
    assert live.exit_code == 3
    assert await bench.output(container_id, stderr=False) == ["out\n"]
    assert await bench.output(container_id, stdout=False) == ["err\n"]


async def test_isolation_is_the_specs_else_the_nodes(bench: Bench) -> None:
    shared = await bench.run()
    shimmed = await bench.run(isolation=Isolation.SHIM)
    await bench.close()
    await bench.open(isolation=Isolation.SHIM)  # the node's default changes: what is made from now on
    by_default = await bench.run("sh", "-c", "exit 4")
    refused = await bench.run(isolation=Isolation.SHARED)
    lives = [bench.containers.live(each) for each in (shared, shimmed, by_default, refused)]
    assert [live and live.isolation for live in lives] == ["shared", "shim", "shim", "shared"]
    assert (await bench.ended(by_default)).exit_code == 4


async def test_follow_ends_with_the_container(bench: Bench) -> None:
    container_id = await bench.run("sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    assert await bench.output(container_id, follow=True) == ["1\n", "2\n", "3\n"]
    assert await bench.output(container_id, tail=1) == ["3\n"]


async def test_stop_gives_grace_then_kills(bench: Bench) -> None:
    container_id = await bench.run("sh", "-c", "trap 'echo asked' TERM; while :; do sleep 0.05; done")
    await bench.until(container_id, lambda live: live.running)
    await bench.containers.stop(container_id, 0.5)
    live = await bench.ended(container_id)
    assert live.exit_code == 128 + signal.SIGKILL


async def test_it_runs_again_and_keeps_its_logs(bench: Bench) -> None:
    container_id = await bench.run("echo", "again")
    await bench.ended(container_id)
    await bench.containers.start(container_id)
    await bench.until(container_id, lambda live: live.state is ContainerState.EXITED and live.exit_code == 0)
    async with asyncio.timeout(10):
        while await bench.output(container_id) != ["again\n", "again\n"]:
            await asyncio.sleep(0.02)


async def test_exec_has_its_own_streams_and_exit_code(bench: Bench) -> None:
    container_id = await bench.run()
    execution = await bench.containers.exec(
        container_id, command=("sh", "-c", "cat; echo done >&2; exit 5"), env={}, user="", cwd="", tty=False, stdin=True
    )
    await execution.write(b"hello")
    execution.close_stdin()
    chunks = [chunk async for chunk in execution.chunks()]
    assert (STDOUT, b"hello") in chunks
    assert (STDERR, b"done\n") in chunks
    assert await execution.exit_code() == 5
    execution.close()


async def test_exec_with_a_terminal_is_resized(bench: Bench) -> None:
    container_id = await bench.run()
    execution = await bench.containers.exec(
        container_id, command=("sh", "-c", "read go; stty size"), env={}, user="", cwd="", tty=True, stdin=True
    )
    await execution.resize(33, 101)
    await execution.write(b"go\n")
    text = b"".join([data async for _, data in execution.chunks()])
    assert b"33 101" in text
    assert await execution.exit_code() == 0
    execution.close()


async def test_exec_as_another_user_elsewhere(bench: Bench) -> None:
    container_id = await bench.run(env={"COLOUR": "blue"})
    execution = await bench.containers.exec(
        container_id,
        command=("sh", "-c", "id -u; pwd; echo $COLOUR $HOME"),
        env={},
        user="web",
        cwd="/tmp",
        tty=False,
        stdin=False,
    )
    text = b"".join([data async for _, data in execution.chunks()])
    assert text.split() == [b"33", b"/tmp", b"blue", b"/data"]
    execution.close()


async def test_exec_of_a_missing_program_is_refused_with_127(bench: Bench) -> None:
    container_id = await bench.run()
    with pytest.raises(WharfError) as caught:
        await bench.containers.exec(container_id, command=("nope",), env={}, user="", cwd="", tty=False, stdin=False)
    assert caught.value.code == "exec_failed"


async def test_a_command_that_is_not_there_cannot_start(bench: Bench) -> None:
    container_id = await bench.containers.create(replace(bench.spec, args=("/nope",)), image_id=bench.image)
    with pytest.raises(WharfError) as caught:
        await bench.containers.start(container_id)
    assert caught.value.code == "exec_failed"
    live = await bench.ended(container_id)
    assert live.exit_code == 127


async def test_limits_are_the_kernels(bench: Bench) -> None:
    container_id = await bench.run(
        "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived", resources=Resources(memory=32 << 20, pids=10)
    )
    live = await bench.ended(container_id)
    assert "survived\n" in await bench.output(container_id) or live.oom_killed
    stats = await bench.containers.stats(await bench.run(resources=Resources(memory=64 << 20, pids=10)))
    assert stats["memory_limit"] == 64 << 20
    assert stats["pids"] >= 1


async def test_out_of_memory_is_told(bench: Bench) -> None:
    # The shell's variable grows in the container's first process, so the kernel must kill that one.
    script = "x=0123456789abcdef; while :; do x=$x$x; done"
    container_id = await bench.run("sh", "-c", script, resources=Resources(memory=16 << 20))
    live = await bench.ended(container_id)
    assert live.oom_killed
    assert live.exit_code == 128 + signal.SIGKILL


async def test_volumes_and_binds_outlive_their_containers(bench: Bench) -> None:
    mount = MountSpec(MountType.VOLUME, "/data", "keep")
    await bench.ended(await bench.run("sh", "-c", "echo kept > /data/file", mounts=(mount,)))
    reader = await bench.run("cat", "/data/file", mounts=(mount,))
    await bench.ended(reader)
    assert await bench.output(reader) == ["kept\n"]


async def test_health_is_checked(bench: Bench) -> None:
    check = HealthCheck(("test", "-e", "/tmp/well"), interval=0.1, timeout=2, retries=2)
    container_id = await bench.run("sh", "-c", "sleep 0.3; echo > /tmp/well; sleep 1000", health=replace(check, retries=100))
    await bench.until(container_id, lambda live: live.health is Health.HEALTHY)
    sick = await bench.run(health=check)
    await bench.until(sick, lambda live: live.health is Health.UNHEALTHY)


async def test_a_restarted_agent_finds_everything_as_it_was(bench: Bench) -> None:
    container_id = await bench.run("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
    before = await bench.until(container_id, lambda live: live.running)
    await bench.close()
    await bench.open()
    after = bench.containers.live(container_id)
    assert after is not None
    assert (after.pid, after.started) == (before.pid, before.started)
    lines = await bench.output(container_id)
    assert lines == [f"{number}\n" for number in range(1, len(lines) + 1)]


async def test_names_ids_and_refusals(bench: Bench) -> None:
    container_id = await bench.containers.create(bench.spec, image_id=bench.image, name="web")
    assert bench.containers.get("web").id == bench.containers.get(container_id[:12]).id == container_id
    with pytest.raises(NameInUse):
        await bench.containers.create(bench.spec, image_id=bench.image, name="web")
    with pytest.raises(NoSuchContainer):
        bench.containers.get("nothing")
    with pytest.raises(ContainerNotRunning):
        await bench.containers.kill("web", 9)
    await bench.containers.start("web")
    with pytest.raises(ContainerRunning):
        await bench.containers.remove("web")
    await bench.containers.remove("web", force=True)
    with pytest.raises(NoSuchContainer):
        bench.containers.get("web")


async def test_creation_for_a_task_is_done_once(bench: Bench) -> None:
    first = await bench.containers.create(bench.spec, image_id=bench.image, task_id="t1")
    assert await bench.containers.create(bench.spec, image_id=bench.image, task_id="t1") == first


async def test_a_published_port_answers(bench: Bench) -> None:
    from agent.protocol.spec import PortSpec

    spec = ContainerSpec(
        image="busybox", args=("sh", "-c", "while :; do echo hi | busybox nc -l -p 80; done"), ports=(PortSpec(80),)
    )
    container_id = await bench.containers.create(spec, image_id=bench.image)
    await bench.containers.start(container_id)
    live = bench.containers.live(container_id)
    assert live is not None
    port = live.ports[0]["host_port"]
    async with asyncio.timeout(10):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                answer = await reader.read()
                writer.close()
                if answer == b"hi\n":
                    break
            except OSError:
                pass
            await asyncio.sleep(0.05)
