"""The node, put together: every room of the agent, in the order it is opened."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agent import __version__
from agent.containers.containers import Containers
from agent.containers.idranges import NodeRange
from agent.containers.process import signal_number
from agent.containers.wiring import Wiring
from agent.images.images import ImageStore
from agent.images.store import ContentStore
from agent.link import host
from agent.link.identity import Identity
from agent.link.journal import Journal
from agent.link.link import Link
from agent.link.pulling import ClusterPuller
from agent.link.renewal import renew, renew_for_ever
from agent.link.streams import Streams
from agent.network.manager import Networks
from agent.protocol import messages as m
from agent.protocol.codec import InvalidSpec, decode
from agent.protocol.errors import WharfError
from agent.protocol.spec import ContainerSpec
from agent.protocol.states import ContainerState
from agent.storage import choose, elsewhere, working
from agent.storage.limits import Rights
from agent.supervisor.client import Supervisor
from agent.upkeep import Upkeep
from agent.volumes.store import VolumeStore
from agent.worker.worker import Worker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Where a node keeps things. `home` survives reboots, `run` need not."""

    home: Path
    run: Path
    cgroup_parent: str = "/wharfinger"
    graph_driver: str | None = None  # None: what holds images already, else the best that works
    storage_options: tuple[str, ...] = ()  # "key=value" as Docker's --storage-opt
    image_devices: bool = False  # whether layers may bring device nodes
    network_prefix: str = "wharf"
    labels: Mapping[str, str] = field(default_factory=dict)
    protect_ports: tuple[int, ...] = ()  # of this host: containers cannot reach them
    userns_range: NodeRange = field(default_factory=NodeRange)  # host ids for containers with a user namespace


class Node:
    """Built by `open`, served by `run`, left by `close` with everything still running."""

    def __init__(self, config: NodeConfig, identity: Identity) -> None:
        self._config = config
        self._identity = identity
        self._data = config.home / "data"
        self._data.mkdir(mode=0o711, parents=True, exist_ok=True)
        config.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._protected = [os.path.realpath(config.home), os.path.realpath(config.run)]  # no bind mount leads in here

    async def open(self) -> None:
        config = self._config
        logs_root = config.home / "supervisor"
        self._supervisor = await Supervisor.ensure(str(config.run), str(logs_root), config.cgroup_parent)
        rights = Rights(keep_devices=config.image_devices)
        self._driver = choose(str(self._data), config.graph_driver, rights=rights, options=config.storage_options)
        self._working_drivers = tuple(working(str(self._data)))
        self._images = ImageStore(
            str(self._data / "image" / self._driver.name), ContentStore(str(self._data / "content")), self._driver
        )
        self._networks = Networks(
            str(config.home / "networks"), str(config.run), prefix=config.network_prefix, protect_ports=config.protect_ports
        )
        self.containers = Containers(
            config.home,
            self._supervisor,
            self._images,
            self._driver,
            Wiring(self._networks),
            VolumeStore(str(config.home / "volumes"), protect=self._protected),
            cgroup_parent=config.cgroup_parent,
            logs_root=logs_root,
            elsewhere=elsewhere(str(self._data), self._driver.name),
            id_range=config.userns_range,
        )
        await self.containers.open()
        self.link = Link(self._identity, self, Journal(config.home / "state" / "actions"), lambda: self.worker)
        self._puller = ClusterPuller(self.link, self._images, self._identity.ca_path.read_text())
        self.worker = Worker(
            config.home / "state", self.containers, self._puller, boot_id=host.boot_id(), report=self.link.report
        )
        self.link.serve_streams(Streams(self.link.wire, self.link.connection.flush, self.containers))
        self.containers.on_change(lambda _task: self.link.contents_changed())
        self.upkeep = Upkeep(
            config.home / "state",
            self.containers,
            self._images,
            wanted=self.worker.images,
            changed=self.link.inventory_changed,
        )
        await self.upkeep.look_at_disk()
        self.upkeep.start()
        self.worker.start()

    async def run(self) -> None:
        """Until the control plane refuses this node for good."""
        renewal = asyncio.create_task(renew_for_ever(self._identity, self.link), name="certificate-renewal")
        try:
            await self.link.run()
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    async def close(self) -> None:
        """Stop deciding. Containers, their supervisor and their network stay as they are."""
        await self.upkeep.stop()
        await self.worker.stop()
        await self.containers.close()
        await self._supervisor.close()
        self._networks.close()

    # -- what the link asks ----------------------------------------------------------------------------------------------

    def inventory(self, epoch: int) -> m.Inventory:
        return host.inventory(
            epoch,
            str(self._data),
            graph_driver=self._driver.name,
            graph_drivers=self._working_drivers,
            version=__version__,
            addresses=host.addresses(self._config.network_prefix),
            labels=self._config.labels,
            problems=self.upkeep.problems,
        )

    async def contents(self, epoch: int) -> m.Contents:
        images = tuple(
            m.ImageInfo(image.id, image.size, _unix(image.created), image.repo_tags, image.repo_digests)
            for image in await asyncio.to_thread(self._images.list)
        )
        return m.Contents(epoch, tuple(self._describe()), images)

    def _describe(self) -> list[m.ContainerInfo]:
        described = []
        for record in self.containers.records:
            live = self.containers.live(record.id)
            if live is None:
                continue
            described.append(
                m.ContainerInfo(
                    id=record.id,
                    name=record.name,
                    image=record.image,
                    image_id=record.image_id,
                    state=live.state.value,
                    created=record.created,
                    pid=live.pid,
                    started=live.started,
                    finished=live.finished,
                    exit_code=live.exit_code,
                    oom_killed=live.oom_killed,
                    health="" if live.health.value == "none" else live.health.value,
                    restarts=live.restarts,
                    task_id=record.task_id,
                    labels=record.spec.labels,
                    addresses=live.addresses,
                    ports=live.ports,
                    command=record.command,
                )
            )
        return described

    async def samples(self, epoch: int) -> m.Samples:
        containers: dict[str, dict[str, float]] = {}
        for record in self.containers.records:
            live = self.containers.live(record.id)
            if live is None or live.state is not ContainerState.RUNNING:
                continue
            try:
                containers[record.id] = await self.containers.stats(record.id)
            except WharfError as error:
                log.debug("no sample of %s: %s", record.name, error.detail)  # it ended between the look and the question
        return m.Samples(epoch, time.time(), host.usage(str(self._data)), containers)

    def granted(self, sent: float, length: float) -> None:
        """A lease counts from the moment that its heartbeat was sent; one that cannot be noted is not held."""
        try:
            self._supervisor.granted(sent, length)
        except OSError as error:
            log.error("the lease is not renewed, it cannot be written: %s", error)

    async def act(self, action: m.Action) -> dict[str, Any]:
        """Carry out a one-shot action (see messages.Action for kinds and arguments)."""
        handler = getattr(self, f"_act_{action.kind}", None)
        if handler is None:
            raise InvalidSpec(f"this agent ({__version__}) does not know the action {action.kind!r}: upgrade it", field="kind")
        result: dict[str, Any] | None = await handler(action.target, action.args)
        return result or {}

    async def _act_container_create(self, _target: str, args: Mapping[str, Any]) -> dict[str, Any]:
        spec = decode(ContainerSpec, args.get("spec"))
        image_id = await self._puller.ensure(str(args.get("image") or spec.image), lambda _text: None)
        return {"id": await self.containers.create(spec, image_id=image_id, name=str(args.get("name", "")))}

    async def _act_container_start(self, target: str, _args: Mapping[str, Any]) -> None:
        await self.containers.start(target)

    async def _act_container_stop(self, target: str, args: Mapping[str, Any]) -> None:
        await self.containers.stop(target, _grace(args))

    async def _act_container_restart(self, target: str, args: Mapping[str, Any]) -> None:
        await self.containers.restart(target, _grace(args))

    async def _act_container_kill(self, target: str, args: Mapping[str, Any]) -> None:
        await self.containers.kill(target, signal_number(str(args.get("signal", "KILL"))))

    async def _act_container_pause(self, target: str, _args: Mapping[str, Any]) -> None:
        await self.containers.pause(target)

    async def _act_container_unpause(self, target: str, _args: Mapping[str, Any]) -> None:
        await self.containers.unpause(target)

    async def _act_container_remove(self, target: str, args: Mapping[str, Any]) -> None:
        await self.containers.remove(target, force=bool(args.get("force", False)))

    async def _act_image_pull(self, _target: str, args: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": await self._puller.ensure(str(args.get("reference", "")), lambda _text: None)}

    async def _act_image_remove(self, _target: str, args: Mapping[str, Any]) -> dict[str, Any]:
        removed = await asyncio.to_thread(
            self._images.remove, str(args.get("reference", "")), force=bool(args.get("force", False))
        )
        self.link.contents_changed()
        return {"untagged": list(removed.untagged), "deleted": list(removed.deleted)}

    async def _act_renew_certificate(self, _target: str, _args: Mapping[str, Any]) -> None:
        await renew(self._identity, self.link)

    async def _act_orphan_adopt(self, _target: str, _args: Mapping[str, Any]) -> None:
        """The database has taken the unknown tasks over: what it does not assign now is really unwanted."""
        self.worker.assignments.set_adopting(False)
        self.worker.reconcile()

    _act_orphan_kill = _act_orphan_adopt


def _grace(args: Mapping[str, Any]) -> float | None:
    value = args.get("grace")
    return None if value is None else float(value)


def _unix(created: str) -> float:
    """Unix seconds of an image's `created` (RFC 3339 with any offset), 0 when it does not say."""
    try:
        return datetime.fromisoformat(created).timestamp() if created else 0.0
    except ValueError:
        return 0.0
