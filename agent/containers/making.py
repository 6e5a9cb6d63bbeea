"""A container from its record: root file system, user, mounts, network place, and what the supervisor is told of all that."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from agent.containers.both import both
from agent.containers.config import health_config, oci_config
from agent.containers.idranges import IdRanges
from agent.containers.logchoice import log_choice
from agent.containers.process import user_text, volumes
from agent.containers.record import Record, Records
from agent.containers.user import ProcessUser, read_text, resolve_user
from agent.containers.wiring import Wiring
from agent.protocol.spec import ContainerRestart, ContainerSpec, Isolation, MountSpec, MountType
from agent.storage.driver import GraphDriver
from agent.supervisor.client import Supervisor
from agent.sys.mount import Mount
from agent.volumes.mounts import shifted
from agent.volumes.store import VolumeStore


class Making:
    """`isolation`: of containers whose spec leaves it to the node."""

    def __init__(
        self,
        records: Records,
        supervisor: Supervisor,
        driver: GraphDriver,
        wiring: Wiring,
        volume_store: VolumeStore,
        id_ranges: IdRanges,
        cgroup_parent: str,
        isolation: Isolation,
    ) -> None:
        self._records = records
        self._supervisor = supervisor
        self._driver = driver
        self._wiring = wiring
        self._volumes = volume_store
        self._id_ranges = id_ranges
        self._under_way: list[str] = []  # tenants of containers that have no record yet
        self._cgroup_parent = cgroup_parent
        self._isolation = isolation

    async def make(self, record: Record, run_config: dict[str, Any], chain: list[str], lease: float) -> None:
        """Not started. What an error leaves behind is the caller's to undo."""
        self._under_way.append(record.tenant)
        try:
            await self._make(record, run_config, chain, lease)
        finally:
            self._under_way.remove(record.tenant)

    async def _make(self, record: Record, run_config: dict[str, Any], chain: list[str], lease: float) -> None:
        spec = record.spec
        rootfs, (sandbox, etc) = await both(
            asyncio.to_thread(partial(self._driver.prepare, record.id, chain, size=spec.storage_size)),
            asyncio.to_thread(self._wiring.prepare, record.id, spec, record.name, self._records.directory(record.id)),
        )
        user = await asyncio.to_thread(user_of, user_text(spec, run_config), rootfs)
        mounts = await asyncio.to_thread(self._mounts, record, run_config, rootfs)
        ids = None
        if spec.user_namespace:
            ids = await asyncio.to_thread(self._id_ranges.of, record.tenant, self._tenants)
            rootfs, mounts = shifted(rootfs[:1]) + rootfs[1:], self._volumes.shifted(mounts)
        config = oci_config(
            spec,
            run_config,
            container_id=record.id,
            user=user,
            hostname=spec.hostname or record.id[:12],
            sandbox=sandbox,
            mounts=[*etc, *mounts],
            cgroup_parent=self._cgroup_parent,
            ids=ids,
        )
        created = self._supervisor.create(
            record.id,
            config,
            rootfs,
            log=await asyncio.to_thread(log_choice, record, run_config),
            open_stdin=spec.open_stdin,
            restart=_restart_policy(spec),
            health=health_config(spec.health, run_config),
            lease=lease,
            isolation=spec.isolation or self._isolation,
        )
        # whichever of the two a crash leaves alone, the next start of the agent removes
        await both(created, asyncio.to_thread(self._records.put, record, config["process"]))

    def _tenants(self) -> set[str]:
        """Those whose range of ids may be in use."""
        return {record.tenant for record in self._records if record.spec.user_namespace}.union(self._under_way)

    def _mounts(self, record: Record, run_config: dict[str, Any], rootfs: list[Mount]) -> list[Mount]:
        named = {mount.target for mount in record.spec.mounts}
        declared = [MountSpec(MountType.VOLUME, path) for path in volumes(run_config) if path not in named]
        return self._volumes.mounts_for([*record.spec.mounts, *declared], record.id, rootfs)


def user_of(text: str, rootfs: list[Mount]) -> ProcessUser:
    """A user as people write it, by the image's own files."""
    return resolve_user(text, read_text(rootfs, "etc/passwd"), read_text(rootfs, "etc/group"))


def _restart_policy(spec: ContainerSpec) -> dict[str, Any]:
    policy: dict[str, Any] = {"name": spec.restart.value}
    if spec.restart is ContainerRestart.ON_FAILURE and spec.restart_max:
        policy["max"] = spec.restart_max
    return policy
