"""Streams of the link, joined to what they reach on the node: logs, exec, attach, stats, events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from agent.containers.containers import Containers
from agent.containers.execution import Execution
from agent.containers.logs import LogQuery
from agent.protocol import messages as m
from agent.protocol.codec import InvalidSpec, decode
from agent.protocol.errors import WharfError
from agent.protocol.wire import Data, Event, Received, Wire, Writable

log = logging.getLogger(__name__)


class NoSuchTarget(InvalidSpec):
    code = "no_such_stream_target"


class _Stream:
    """One open stream: its input queue, its writers' wake-up, the task that serves it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.inbox: asyncio.Queue[Data | m.StreamEof | m.StreamResize] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.opened = False
        self.task: asyncio.Task[None] | None = None


class Streams:
    """Serves StreamOpen. A slow reader stops its own stream only: `_write` waits for that stream's credit."""

    def __init__(self, wire: Wire, flush: Callable[[], None], containers: Containers) -> None:
        self._wire = wire
        self._flush = flush
        self._containers = containers
        self._streams: dict[int, _Stream] = {}
        self._targets = {
            "logs": self._logs,
            "exec": self._exec,
            "attach": self._attach,
            "stats": self._stats,
            "events": self._events,
        }

    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """Those that serve the open streams."""
        return tuple(stream.task for stream in self._streams.values() if stream.task)

    def handle(self, event: Event) -> bool:
        """Take a stream event; False when it is not one."""
        if isinstance(event, Data | Writable):
            stream = self._streams.get(event.stream)
            if stream and isinstance(event, Data):
                stream.inbox.put_nowait(event)
            elif stream:
                stream.writable.set()
            return True
        return isinstance(event, Received) and self._message(event.message)

    def _message(self, message: Any) -> bool:
        if isinstance(message, m.StreamOpen):
            stream = self._streams[message.stream] = _Stream(message.stream)
            stream.task = asyncio.create_task(self._serve(stream, message), name=f"stream-{message.stream}-{message.target}")
            return True
        if isinstance(message, m.StreamEof | m.StreamResize):
            known = self._streams.get(message.stream)
            if known:
                known.inbox.put_nowait(message)
            return True
        if isinstance(message, m.StreamReset):
            gone = self._streams.pop(message.stream, None)
            if gone and gone.task:
                gone.task.cancel()
            return True
        return False

    async def _serve(self, stream: _Stream, message: m.StreamOpen) -> None:
        try:
            target = self._targets.get(message.target)
            if target is None:
                raise NoSuchTarget(f"stream target {message.target!r} is not known; there are {', '.join(self._targets)}")
            await target(stream, message)
        except WharfError as error:
            refused = (
                m.StreamReset(stream.number, error.detail) if stream.opened else m.StreamRefused(stream.number, error.as_dict())
            )
            self._send(refused)
        except asyncio.CancelledError:
            raise
        except Exception:  # the stream's loop top: one broken stream must not take the link with it
            log.exception("stream %d (%s of %s) failed", stream.number, message.target, message.container)
            self._send(m.StreamReset(stream.number, "the node failed to serve this stream; its log has the reason"))
        finally:
            # A new link numbers its streams from 1 again: this one's place may be another's by now.
            if self._streams.get(stream.number) is stream:
                del self._streams[stream.number]

    def _opened(self, stream: _Stream, info: Mapping[str, Any] | None = None) -> None:
        stream.opened = True
        self._send(m.StreamOpened(stream.number, dict(info or {})))

    def _send(self, message: Any) -> None:
        if self._wire.is_open(message.stream):
            self._wire.send(message)
            self._flush()

    async def _write(self, stream: _Stream, channel: int, data: bytes) -> None:
        while data:
            stream.writable.clear()
            taken = self._wire.write(stream.number, channel, data)
            self._flush()
            data = data[taken:]
            if data:
                await stream.writable.wait()

    async def _logs(self, stream: _Stream, message: m.StreamOpen) -> None:
        query = decode(LogQuery, message.args)
        entries = self._containers.logs(message.container, query)
        self._opened(stream)
        async with contextlib.aclosing(entries):
            async for entry in entries:
                channel = m.STDERR if entry.stream == "stderr" else m.STDOUT
                await self._write(stream, channel, entry.render(query.timestamps))
        self._send(m.StreamExit(stream.number, 0))

    async def _exec(self, stream: _Stream, message: m.StreamOpen) -> None:
        args = message.args
        execution = await self._containers.exec(
            message.container,
            command=tuple(str(word) for word in args.get("command", ())),
            env={str(key): str(value) for key, value in args.get("env", {}).items()},
            user=str(args.get("user", "")),
            cwd=str(args.get("cwd", "")),
            tty=bool(args.get("tty", False)),
            stdin=bool(args.get("stdin", False)),
        )
        if execution.tty and args.get("rows") and args.get("cols"):
            stream.inbox.put_nowait(m.StreamResize(stream.number, int(args["rows"]), int(args["cols"])))
        await self._pump(stream, execution, {"exec_id": execution.exec_id, "pid": execution.pid})

    async def _attach(self, stream: _Stream, message: m.StreamOpen) -> None:
        attachment = await self._containers.attach(message.container, stdin=bool(message.args.get("stdin", False)))
        await self._pump(stream, attachment, {})

    async def _pump(self, stream: _Stream, execution: Execution, info: Mapping[str, Any]) -> None:
        self._opened(stream, info)
        feeder = asyncio.create_task(self._feed(stream, execution), name=f"stream-{stream.number}-input")
        try:
            # Closed here and now: its readers must let go of the descriptors before those are closed.
            async with contextlib.aclosing(execution.chunks()) as chunks:
                async for channel, data in chunks:
                    await self._write(stream, channel, data)
            # The code is known to the peer before it sees the stream end: a client that asks at once must not read "none".
            self._send(m.StreamExit(stream.number, await execution.exit_code()))
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            execution.close()

    async def _feed(self, stream: _Stream, execution: Execution) -> None:
        while True:
            item = await stream.inbox.get()
            if isinstance(item, Data):
                await execution.write(item.payload)
                self._wire.consumed(stream.number, len(item.payload))
                self._flush()
            elif isinstance(item, m.StreamResize):
                with contextlib.suppress(WharfError):  # the process has ended meanwhile: its output says so
                    await execution.resize(item.rows, item.cols)
            else:
                execution.close_stdin()

    async def _stats(self, stream: _Stream, message: m.StreamOpen) -> None:
        await self._json_lines(stream, self._containers.stats_stream(message.container))

    async def _events(self, stream: _Stream, message: m.StreamOpen) -> None:
        await self._json_lines(stream, self._containers.events())

    async def _json_lines(self, stream: _Stream, items: AsyncGenerator[Mapping[str, Any], None]) -> None:
        self._opened(stream)
        async with contextlib.aclosing(items):
            async for item in items:
                await self._write(stream, m.STDOUT, json.dumps(item, separators=(",", ":")).encode() + b"\n")
        self._send(m.StreamExit(stream.number, 0))
