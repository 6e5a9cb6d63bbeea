"""Life cycle of this node's containers, of tasks and started by hand alike.

The supervisor is the parent of the processes and the truth about them; this room adds what it does not know (specs, names,
images, networks, volumes) and may be restarted at any time. One lock a container orders its transitions.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.containers.changes import Changes
from agent.containers.config import exec_process
from agent.containers.errors import (
    AmbiguousContainer,
    ContainerNotRunning,
    ContainerRunning,
    LogsNotKept,
    NameInUse,
    NoSuchContainer,
    OtherDriverRunning,
)
from agent.containers.execution import Execution, ends
from agent.containers.idranges import IdRanges, NodeRange
from agent.containers.live import Live, live_from
from agent.containers.logchoice import is_kept
from agent.containers.logs import LogEntry, LogQuery, read_logs
from agent.containers.making import Making, user_of
from agent.containers.process import argv, display, stop_signal
from agent.containers.record import Record, Records
from agent.containers.stats import flat_stats, network_bytes
from agent.containers.wiring import Connected, Wiring
from agent.images.images import ImageStore
from agent.protocol.errors import WharfError
from agent.protocol.messages import STDERR, STDOUT
from agent.protocol.spec import ContainerSpec, Isolation, NetworkMode
from agent.protocol.states import ContainerState
from agent.storage.driver import GraphDriver
from agent.supervisor.client import Supervisor
from agent.volumes.store import VolumeStore

log = logging.getLogger(__name__)


class Containers:
    """`home`/containers holds the records; `logs_root` is the supervisor's state directory.

    `elsewhere`: containers of other graph drivers (id -> driver), which are neither shown nor touched. `isolation`: of containers
    whose spec leaves it to the node.
    """

    def __init__(
        self,
        home: Path,
        supervisor: Supervisor,
        images: ImageStore,
        driver: GraphDriver,
        wiring: Wiring,
        volume_store: VolumeStore,
        *,
        cgroup_parent: str,
        logs_root: Path,
        elsewhere: Mapping[str, str] | None = None,
        id_range: NodeRange | None = None,
        isolation: Isolation = Isolation.SHARED,
    ) -> None:
        self._elsewhere = dict(elsewhere or {})
        self.records = Records(home / "containers", self._elsewhere)
        self._supervisor = supervisor
        self._images = images
        self._driver = driver
        self._wiring = wiring
        self._volumes = volume_store
        self._logs_root = logs_root
        id_ranges = IdRanges(home / "idranges.json", id_range or NodeRange())
        self._making = Making(self.records, supervisor, driver, wiring, volume_store, id_ranges, cgroup_parent, isolation)
        self._states: dict[str, dict[str, Any]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}  # of containers that have ended, and give their network back just now
        self._locks: dict[str, asyncio.Lock] = {}
        self.changes = Changes()
        self._follower: asyncio.Task[None] | None = None

    # -- the agent's own life -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Adopt what runs: read the supervisor's list, put the network in order, finish removals that a crash cut short."""
        self._states = {}
        for state in await self._supervisor.list():
            if state["id"] not in self._elsewhere:
                self._states[state["id"]] = state
            elif state["state"] not in (ContainerState.CREATED.value, ContainerState.EXITED.value, ContainerState.DEAD.value):
                raise OtherDriverRunning(state["id"], self._elsewhere[state["id"]], self._driver.name)
        for container_id in set(self._states) - {record.id for record in self.records}:
            log.warning("container %s has no record: its creation was cut short; removing it", container_id[:12])
            await self._supervisor.delete(container_id, force=True)
            del self._states[container_id]
        await self.mend_network(always=True)
        self._follower = asyncio.create_task(self._follow(), name="containers-follow")
        for record in self.records:
            if record.id not in self._states:
                await self._discard(record)
        for container_id in await asyncio.to_thread(self._images.owners):
            if self.records.get(container_id) is None:  # a creation that died before its record: the hold is its first mark
                await self._give_back(container_id)

    async def mend_network(self, *, always: bool = False) -> None:
        """Put the kernel's network objects back in order when somebody changed them under us, or in any case."""
        if not always and await asyncio.to_thread(self._wiring.intact):
            return
        report = await asyncio.to_thread(self._wiring.sync, Connected(self._states, self._locks))
        if report.repaired or report.broken or not always:
            log.warning("network mended: %d links repaired, %d beyond repair", len(report.repaired), len(report.broken))

    async def close(self) -> None:
        """Let go; everything runs on under the supervisor."""
        if self._follower:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def _follow(self) -> None:
        async for event in self._supervisor.events():
            if event["kind"] == "list":
                for state in event["containers"]:
                    if state["id"] in self._elsewhere:
                        continue
                    await self._now(state)
                    self._tell(state["id"], {"kind": "seen"})
                continue
            if event["id"] in self._elsewhere:
                continue
            if event["kind"] == "delete":
                self._states.pop(event["id"], None)
            elif event.get("container"):
                await self._now(event["container"])
            self._tell(event["id"], event)

    async def _now(self, state: dict[str, Any]) -> None:
        """Note a container's state; one that has come to rest gives its address and ports back, whoever hears of it first."""
        container_id = state["id"]
        before = self._states.get(container_id)
        self._states[container_id] = state
        if state["state"] != ContainerState.EXITED.value:
            return
        if not (before and before["state"] == ContainerState.EXITED.value):
            leaving = asyncio.create_task(asyncio.to_thread(self._wiring.disconnect, container_id))
            self._leaving[container_id] = leaving
            leaving.add_done_callback(lambda _: self._leaving.pop(container_id, None))
        if container_id in self._leaving:
            await asyncio.shield(self._leaving[container_id])

    def _tell(self, container_id: str, event: Mapping[str, Any]) -> None:
        record = self.records.get(container_id)
        self.changes.tell(event["kind"], container_id, record.name if record else "", record.task_id if record else "")

    def on_change(self, listener: Callable[[str], None]) -> None:
        """`listener(task_id)` is called after every change of a container; "" for one of no task."""
        self.changes.listeners.append(listener)

    # -- questions -------------------------------------------------------------------------------------------------------

    def get(self, text: str) -> Record:
        """By id, name or unique id prefix. Raises `NoSuchContainer`, `AmbiguousContainer`."""
        found = self.records.find(text)
        if not found:
            raise NoSuchContainer(f"No such container: {text}")
        if len(found) > 1:
            raise AmbiguousContainer(f"{text!r} fits {len(found)} containers: give more of the id")
        return found[0]

    def live(self, container_id: str) -> Live | None:
        """How the container is now; None when it is not there."""
        record, state = self.records.get(container_id), self._states.get(container_id)
        if record is None or state is None:
            return None
        addresses, ports = self._wiring.addresses(record)
        return live_from(state, addresses, ports)

    def of_task(self, task_id: str) -> Record | None:
        return next((record for record in self.records if record.task_id == task_id), None)

    # -- transitions -----------------------------------------------------------------------------------------------------

    async def create(
        self,
        spec: ContainerSpec,
        *,
        image_id: str,
        name: str = "",
        task_id: str = "",
        lease: float = 0.0,
        tenant: str = "",
    ) -> str:
        """Make a container, not started; its id. For a task that has one already, that one's (a repeat after a crash).

        `lease`, `tenant`: see TaskAssignment.
        """
        if task_id and (known := self.of_task(task_id)):
            return known.id
        if name and any(record.name == name for record in self.records):
            raise NameInUse(f"the name {name!r} is in use by another container: remove it or choose another name")
        container_id = secrets.token_hex(32)
        image = await asyncio.to_thread(self._images.get, image_id)
        run_config = dict(image.run_config)
        record = Record(
            id=container_id,
            name=name or container_id[:12],
            spec=spec,
            image=spec.image,
            image_id=image.id,
            command=display(argv(spec, run_config)),
            created=time.time(),
            task_id=task_id,
            stop_signal=stop_signal(spec, run_config),
            tenant=tenant,
        )
        async with self._lock(container_id):
            try:
                await asyncio.to_thread(self._images.hold, image.id, container_id)
                self.records.directory(container_id).mkdir(mode=0o700)
                await self._making.make(record, run_config, list(image.chain), lease)
                self._states[record.id] = await self._supervisor.state(record.id)
            except BaseException:
                await self._discard(record)
                raise
        return container_id

    async def start(self, text: str) -> None:
        """Raises `ContainerRunning`, the network's refusals, `exec_failed` of the runtime."""
        record = self.get(text)
        async with self._lock(record.id):
            live = self.live(record.id)
            if live and live.running:
                raise ContainerRunning(f"container {record.name} is already running")
            if record.id in self._leaving:  # it has only just ended, and must not take the new connection along
                await asyncio.wait([self._leaving[record.id]])
            await asyncio.to_thread(self._wiring.connect, record, self.records.directory(record.id))
            try:
                await self._supervisor.start(record.id)
            except WharfError:
                await asyncio.to_thread(self._wiring.disconnect, record.id)
                raise
            self._states[record.id] = await self._supervisor.state(record.id)
        self._tell(record.id, {"kind": "start"})

    async def stop(self, text: str, grace: float | None = None) -> None:
        """Ask it to end with its stop signal, kill it after `grace` seconds (the spec's by default); returns when it is down."""
        record = self.get(text)
        await self._supervisor.stop(record.id, record.stop_signal, record.spec.stop_grace if grace is None else grace)
        await self._settled(record.id)

    async def _settled(self, container_id: str) -> None:
        await self._now(await self._supervisor.state(container_id))
        self._tell(container_id, {"kind": "stop"})

    async def restart(self, text: str, grace: float | None = None) -> None:
        record = self.get(text)
        live = self.live(record.id)
        if live and live.running:
            await self.stop(record.id, grace)
        await self.start(record.id)

    async def kill(self, text: str, signal: int) -> None:
        record = self._running(text)
        await self._supervisor.kill(record.id, signal)

    async def pause(self, text: str) -> None:
        await self._supervisor.pause(self._running(text).id)

    async def unpause(self, text: str) -> None:
        await self._supervisor.resume(self.get(text).id)

    def _running(self, text: str) -> Record:
        record = self.get(text)
        live = self.live(record.id)
        if live is None or not live.running:
            raise ContainerNotRunning(f"container {record.name} is not running")
        return record

    async def rename(self, text: str, name: str) -> None:
        record = self.get(text)
        if any(other.name == name for other in self.records if other.id != record.id):
            raise NameInUse(f"the name {name!r} is in use by another container: remove it or choose another name")
        self.records.put(replace(record, name=name))

    async def remove(self, text: str, *, force: bool = False) -> None:
        """Remove the container and everything only it had. A running one needs `force`."""
        record = self.get(text)
        async with self._lock(record.id):
            live = self.live(record.id)
            if live and live.state in (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING) and not force:
                raise ContainerRunning(f"container {record.name} is running: stop the container before removing it, or use force")
            await self._discard(record)
        self._locks.pop(record.id, None)
        self._tell(record.id, {"kind": "remove"})

    async def _discard(self, record: Record) -> None:
        """Undo creation, whatever part of it happened. The record goes last: a crash in between is finished by `open`."""
        try:
            await self._supervisor.delete(record.id, force=True)
        except WharfError as error:
            if error.status != 404:
                raise
        self._states.pop(record.id, None)
        await self._give_back(record.id)
        self.records.remove(record.id)

    async def _give_back(self, container_id: str) -> None:
        """Everything that a container holds outside its record and its supervisor."""
        await asyncio.to_thread(self._wiring.disconnect, container_id)
        await asyncio.to_thread(self._driver.remove_container, container_id)
        await asyncio.to_thread(self._volumes.release, container_id)
        await asyncio.to_thread(self._images.release, container_id)

    # -- streams ---------------------------------------------------------------------------------------------------------

    def logs(self, text: str, query: LogQuery) -> AsyncGenerator[LogEntry, None]:
        """Raises `LogsNotKept` for a driver that keeps nothing on the node."""
        record = self.get(text)
        if not is_kept(record.spec):
            raise LogsNotKept(
                f"configured logging driver does not support reading: {record.spec.log_driver}, and the node keeps no copy"
            )

        def ended() -> bool:
            live = self.live(record.id)
            return live is None or live.state in (ContainerState.EXITED, ContainerState.DEAD)

        return read_logs(self._logs_root / record.id / "logs", query, ended=ended)

    async def exec(
        self,
        text: str,
        *,
        command: tuple[str, ...],
        env: dict[str, str],
        user: str,
        cwd: str,
        tty: bool,
        stdin: bool,
    ) -> Execution:
        """Start `command` in a running container. Raises `exec_failed` (extra.errno: ENOENT or EACCES) when it cannot run."""
        record = self._running(text)
        base = self.records.process(record.id)
        who = None
        if user:
            image = await asyncio.to_thread(self._images.get, record.image_id)
            rootfs = await asyncio.to_thread(self._driver.prepare, record.id, list(image.chain))
            who = await asyncio.to_thread(user_of, user, rootfs)
        process = exec_process(base, command, env=env, cwd=cwd, tty=tty, user=who)
        session = await self._supervisor.exec(record.id, process, tty=tty, stdin=stdin)
        return Execution(
            *ends(session.console_fd, session.stdin_fd, session.stdout_fd, session.stderr_fd),
            tty=tty,
            wait=partial(self._supervisor.exec_wait, session.exec_id),
            window=partial(self._supervisor.resize, record.id, exec_id=session.exec_id),
            exec_id=session.exec_id,
            pid=session.pid,
        )

    async def attach(self, text: str, *, stdin: bool) -> Execution:
        """The container's own streams, live from now on; they end with it."""
        record = self.get(text)
        attachment = await self._supervisor.attach(record.id, stdin=stdin)
        outputs = {STDOUT: attachment.stdout_fd}
        if attachment.stderr_fd is not None:
            outputs[STDERR] = attachment.stderr_fd
        return Execution(
            outputs,
            attachment.stdin_fd,
            tty=attachment.terminal,
            wait=partial(self._exit_code, record.id),
            window=partial(self._supervisor.resize, record.id),
        )

    async def _exit_code(self, container_id: str) -> int | None:
        record = await self._supervisor.wait(container_id)
        code: int | None = record["exit_code"] if record["exit_known"] else None
        return code

    async def stats(self, text: str) -> dict[str, float]:
        """Counters and levels of one running container, flat (see messages.Samples)."""
        record = self._running(text)
        figures = flat_stats(await self._supervisor.stats(record.id))
        live = self.live(record.id)
        if live is not None and live.pid and record.spec.network_mode is not NetworkMode.HOST:
            figures |= network_bytes(live.pid)
        return figures

    async def stats_stream(self, text: str, period: float = 1.0) -> AsyncGenerator[dict[str, float], None]:
        record = self._running(text)
        while True:
            live = self.live(record.id)
            if live is None or not live.running:
                return
            yield {"at": time.time(), **await self.stats(record.id)}
            await asyncio.sleep(period)

    def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """See Changes.events."""
        return self.changes.events()

    def _lock(self, container_id: str) -> asyncio.Lock:
        return self._locks.setdefault(container_id, asyncio.Lock())
