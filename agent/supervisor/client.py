"""The agent's side of the supervisor: an asyncio client that survives the supervisor's upgrades and deaths.

It reconnects with back-off (starting a new supervisor where it was made by `ensure`), gives back the descriptors it kept, and
begins `events` anew with the full list, so that nothing is lost.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from agent.protocol.errors import RemoteError, WharfError
from agent.supervisor import start
from agent.supervisor.leases import LeaseFile
from agent.supervisor.link import Answer, Link, LinkLost
from agent.supervisor.record import boot_id
from agent.supervisor.start import SupervisorAway
from agent.supervisor.store import Store
from agent.sys.mount import Mount

PATIENCE = 20.0  # s that a question waits for a supervisor
_FIRST, _LAST = 0.02, 2.0  # s between two attempts to reconnect
_EVENTS = 10_000  # events a slow reader may lag behind before it gets the list instead
_REPEATABLE = frozenset(
    {"state", "list", "stats", "top", "stop", "wait", "exec_wait", "exec_state", "resize", "hello", "update", "config"}
)

ContainerRecord = dict[str, Any]  # see supervisor.record
Records = list[ContainerRecord]
Rows = list[dict[str, Any]]
Fds = list[int]


@dataclass(slots=True)
class Attachment:
    """Live streams of a container, as descriptors that the caller owns and closes. `stdin_fd` None: its input is not open."""

    stdin_fd: int | None
    stdout_fd: int
    stderr_fd: int | None  # None for a terminal
    terminal: bool


@dataclass(slots=True)
class Exec:
    """A session, with descriptors that the caller owns and closes: a console, or pipes."""

    exec_id: str
    pid: int
    stdin_fd: int | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None
    console_fd: int | None = None


class Supervisor:
    """Made by `connect` or `ensure`. Every call raises SupervisorAway, LinkLost, or the supervisor's refusal as RemoteError."""

    def __init__(self, rundir: str, starter: tuple[str, str, str | None] | None) -> None:
        self._rundir = rundir
        self._starter = starter  # statedir, cgroup parent, script: how to start one
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._gone = asyncio.Event()
        self._store = Store()
        self._readers: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False
        self.instance = ""

    @classmethod
    async def connect(cls, rundir: str) -> Supervisor:
        """To a running supervisor. Raises SupervisorAway."""
        supervisor = cls(rundir, None)
        await supervisor._open()
        supervisor._keeper = asyncio.create_task(supervisor._keep())
        return supervisor

    @classmethod
    async def ensure(cls, rundir: str, statedir: str, cgroup_parent: str, *, script: str | None = None) -> Supervisor:
        """To a running supervisor, started when none answers, now and whenever it is found dead. Raises SupervisorAway."""
        supervisor = cls(rundir, (statedir, cgroup_parent, script))
        await supervisor._start()
        await supervisor._open()
        supervisor._keeper = asyncio.create_task(supervisor._keep())
        return supervisor

    async def close(self) -> None:
        """Let go; supervisor and containers go on."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._link is not None:
            self._link.close()
        self._store.close()
        for reader in self._readers:
            reader.put_nowait(None)

    # ---- containers

    async def create(
        self,
        id_: str,
        config: dict[str, Any],
        rootfs: Sequence[Mount],
        *,
        log: dict[str, Any] | None = None,
        open_stdin: bool = False,
        stdin_once: bool = False,
        restart: dict[str, Any] | None = None,
        health: dict[str, Any] | None = None,
        annotations: dict[str, str] | None = None,
        lease: float = 0.0,
        isolation: str = "",
    ) -> dict[str, Any]:
        """{"pid": n} of a process that waits for `start`. config: OCI; for the others see the files so named.

        `lease` > 0 makes it exclusive: it runs at most so many seconds on one granted heartbeat (see `granted`). `isolation`
        "shim" gives it a parent of its own (see supervisor.shim).
        """
        return await self._tell(
            "create",
            id=id_,
            config=config,
            rootfs=[[mount.type, mount.source, mount.target, list(mount.options)] for mount in rootfs],
            log=log,
            open_stdin=open_stdin,
            stdin_once=stdin_once,
            restart=restart,
            health=health,
            annotations=annotations,
            lease=lease or None,
            isolation=isolation or None,
        )

    def granted(self, sent: float, length: float) -> None:
        """A heartbeat sent at `sent` (CLOCK_BOOTTIME, s) was granted a lease of `length` seconds from then. Raises OSError."""
        LeaseFile(self._rundir, boot_id()).grant(sent, length)

    async def start(self, id_: str) -> int:
        """The pid. A program that cannot be executed: `exec_failed`, extra.errno, and the record says 126 or 127."""
        pid: int = (await self._tell("start", id=id_))["pid"]
        return pid

    async def kill(self, id_: str, signal: int, all: bool = False) -> None:  # the word of the runtime's command line
        await self._tell("kill", id=id_, signal=signal, all=all)

    async def stop(self, id_: str, signal: int, grace: float | None) -> ContainerRecord:
        """Returns when it has ended; after `grace` seconds the supervisor kills it (None: never)."""
        return await self._record("stop", id=id_, signal=signal, grace=grace)

    async def wait(self, id_: str, *, next: bool = False) -> ContainerRecord:  # as in wait?condition=next-exit
        """Returns when it neither runs nor waits to restart; with `next`, when that comes true the next time."""
        return await self._record("wait", id=id_, next=next)

    async def pause(self, id_: str) -> None:
        await self._tell("pause", id=id_)

    async def resume(self, id_: str) -> None:
        await self._tell("resume", id=id_)

    async def update(self, id_: str, resources: dict[str, Any] | None, restart: dict[str, Any] | None = None) -> None:
        """OCI linux.resources, for now and for later runs; and the restart policy."""
        await self._tell("update", id=id_, resources=resources, restart=restart)

    async def stats(self, id_: str) -> dict[str, Any]:
        """See runtime.cgroup.stats."""
        stats: dict[str, Any] = (await self._tell("stats", id=id_))["stats"]
        return stats

    async def top(self, id_: str) -> Rows:
        """See supervisor.proctable."""
        processes: Rows = (await self._tell("top", id=id_))["processes"]
        return processes

    async def delete(self, id_: str, force: bool = False) -> None:
        """Returns when nothing is left of it."""
        await self._tell("delete", id=id_, force=force)

    async def state(self, id_: str) -> ContainerRecord:
        return await self._record("state", id=id_)

    async def config(self, id_: str) -> dict[str, Any]:
        """The OCI configuration, updates of limits included."""
        config: dict[str, Any] = (await self._tell("config", id=id_))["config"]
        return config

    async def list(self) -> Records:
        containers: Records = (await self._tell("list"))["containers"]
        return containers

    # ---- streams

    async def attach(self, id_: str, *, stdin: bool = True) -> Attachment:
        """Live output from now on, also before the start; it ends with the container."""
        answer, fds = await self._ask("attach", id=id_, stdin=stdin)
        rest = list(fds)
        stdin_fd = rest.pop(0) if answer["stdin"] else None
        return Attachment(stdin_fd, rest[0], rest[1] if len(rest) > 1 else None, answer["terminal"])

    async def exec(
        self, id_: str, process: dict[str, Any], *, tty: bool = False, stdin: bool = False, exec_id: str | None = None
    ) -> Exec:
        """Run an OCI process in the container. End of a pipe comes after the exit code is stored."""
        answer, fds = await self._ask("exec", id=id_, process=process, tty=tty, stdin=stdin, exec_id=exec_id)
        session = Exec(answer["exec_id"], answer["pid"])
        if tty:
            session.console_fd = fds[0]
        else:
            session.stdin_fd = fds[0] if stdin else None
            session.stdout_fd, session.stderr_fd = fds[-2], fds[-1]
        return session

    async def exec_wait(self, exec_id: str) -> int | None:
        """The exit code (128 + n after a signal); None when nobody saw it."""
        code: int | None = (await self._tell("exec_wait", exec_id=exec_id))["exec"]["exit_code"]
        return code

    async def exec_state(self, exec_id: str) -> dict[str, Any]:
        """{exec_id, pid, start_time, terminal, running, exit_code, signal, exit_known, finished_at}"""
        state: dict[str, Any] = (await self._tell("exec_state", exec_id=exec_id))["exec"]
        return state

    async def exec_kill(self, exec_id: str, signal: int) -> None:
        await self._tell("exec_kill", exec_id=exec_id, signal=signal)

    async def resize(self, id_: str, rows: int, cols: int, exec_id: str | None = None) -> None:
        await self._tell("resize", id=id_, rows=rows, cols=cols, exec_id=exec_id)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """{"kind", "id", "at" (unix ns), "container"}.

        First, and whenever something may have been missed, {"kind": "list", "id": "", "containers": […]} comes instead, and then
        {"kind": "state", …} for each container of the list.
        """
        reader: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._readers.add(reader)
        try:
            self._deliver_list(reader, await self.list())
            while (event := await reader.get()) is not None:
                if event["kind"] == "overrun":
                    self._deliver_list(reader, await self.list())
                else:
                    yield event
        finally:
            self._readers.discard(reader)

    # ---- the supervisor itself

    async def hello(self) -> dict[str, Any]:
        """{version, pid, instance (new after a crash), generation (new after an upgrade)}"""
        return await self._tell("hello")

    async def upgrade(self) -> dict[str, Any]:
        """Replace the supervisor by the program on disk; {generation, pid} of the new one. Raises `upgrade_failed`."""
        return await self._tell("upgrade")

    async def shutdown(self) -> None:
        """End the supervisor; containers go on. This client starts no other one from now on."""
        self._starter = None
        await self._tell("shutdown")

    # ---- connection

    async def _record(self, operation: str, **parameters: Any) -> ContainerRecord:
        record: ContainerRecord = (await self._tell(operation, **parameters))["container"]
        return record

    async def _tell(self, operation: str, **parameters: Any) -> dict[str, Any]:
        answer, fds = await self._ask(operation, **parameters)
        for fd in fds:
            os.close(fd)
        return answer

    async def _ask(self, operation: str, **parameters: Any) -> Answer:
        message = {"op": operation, **{name: value for name, value in parameters.items() if value is not None}}
        while True:
            link = await self._connected()
            try:
                return await link.ask(message)
            except LinkLost:
                if operation not in _REPEATABLE or self._closing:
                    raise

    async def _connected(self) -> Link:
        try:
            await asyncio.wait_for(self._up.wait(), PATIENCE)
        except TimeoutError:
            raise SupervisorAway(f"no supervisor answers in {self._rundir}") from None
        if self._link is None:
            raise LinkLost("the supervisor is away")
        return self._link

    async def _start(self) -> None:
        if self._starter is not None:
            statedir, cgroup_parent, script = self._starter
            await asyncio.to_thread(start.ensure, self._rundir, statedir, cgroup_parent, script)

    async def _open(self) -> None:
        link = await Link.open(self._rundir, self._told, self._dropped)
        self._link = link
        hello, _ = await link.ask({"op": "hello"})
        if hello["instance"] != self.instance:
            self.instance = hello["instance"]
            for gift, fds in self._store.gifts():
                await self._give(link, gift, fds)
        answer, _ = await link.ask({"op": "subscribe", "hold": True})
        self._up.set()
        for reader in self._readers:
            self._deliver_list(reader, answer["containers"])

    async def _give(self, link: Link, gift: dict[str, Any], fds: Sequence[int]) -> None:
        try:
            await link.ask(gift, fds)
        except RemoteError:
            self._store.drop(gift["id"])  # a container that the new supervisor does not know

    async def _keep(self) -> None:
        """Reconnect, for ever."""
        while True:
            await self._gone.wait()
            self._gone.clear()
            if not self._up.is_set():
                await self._reconnect()

    async def _reconnect(self) -> None:
        pause = _FIRST
        while True:
            try:
                await self._start()
                await self._open()
            except (WharfError, OSError):
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST)
            else:
                return

    def _dropped(self) -> None:
        self._link = None
        self._up.clear()
        self._gone.set()

    def _told(self, message: dict[str, Any], fds: Fds) -> None:
        if "hold" in message:
            self._store.keep(message["hold"], fds)
        elif "event" in message:
            self._store.settle(message["event"])
            self._deliver(message["event"])

    def _deliver(self, event: dict[str, Any]) -> None:
        for reader in self._readers:
            if reader.qsize() < _EVENTS:
                reader.put_nowait(event)
                continue
            while not reader.empty():
                reader.get_nowait()
            reader.put_nowait({"kind": "overrun"})

    def _deliver_list(self, reader: asyncio.Queue[dict[str, Any] | None], containers: Records) -> None:
        reader.put_nowait({"kind": "list", "id": "", "containers": containers})
        for container in containers:
            reader.put_nowait({"kind": "state", "id": container["id"], "at": time.time_ns(), "container": container})
