"""Byte streams of a process in a container: an exec's, or those of the container itself when attached."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from agent.protocol.messages import STDERR, STDOUT

READ_SIZE = 32 << 10
# A background child may hold stdout open after the process itself is gone; its output is not waited for longer than this.
LINGER = 2.0


class Execution:
    """A process's streams: reads outputs as (channel, bytes), takes input with back-pressure, knows the exit code at the end.

    `outputs` maps channels to descriptors and `stdin` is one more, all ours to close. With `tty` input and output are the same
    console. `wait` returns the exit code (None: nobody saw it), `window` takes rows and columns.
    """

    def __init__(
        self,
        outputs: dict[int, int],
        stdin: int | None,
        *,
        tty: bool,
        wait: Callable[[], Awaitable[int | None]],
        window: Callable[[int, int], Awaitable[None]],
        exec_id: str = "",
        pid: int = 0,
    ) -> None:
        self.exec_id = exec_id
        self.pid = pid
        self.tty = tty
        self._outputs = outputs
        self._input = stdin
        self._wait = wait
        self._window = window
        self._over = False
        self._idle: set[asyncio.Task[Any]] = set()
        for fd in (*outputs.values(), stdin):
            if fd is not None:
                os.set_blocking(fd, False)

    async def chunks(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Output in the order it is read, until both ends are closed, or `LINGER` seconds after the process ended.

        Close it (contextlib.aclosing) before `close`: its readers hold the descriptors.
        """
        queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(maxsize=4)
        filler = asyncio.create_task(self._fill(queue))
        try:
            while (item := await queue.get()) is not None:
                yield item
        finally:
            filler.cancel()
            await asyncio.gather(filler, return_exceptions=True)

    async def _fill(self, queue: asyncio.Queue[tuple[int, bytes] | None]) -> None:
        """Read everything into the queue, then put None. What is in a pipe at the end is read out, however slow the reader."""
        readers = [asyncio.create_task(self._pump(channel, fd, queue)) for channel, fd in self._outputs.items()]
        whole, ended = asyncio.gather(*readers), asyncio.create_task(self._linger())
        try:
            first: set[asyncio.Future[Any]] = {whole, ended}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            self._over = True
            for reader in self._idle:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        finally:
            for task in (*readers, ended):
                task.cancel()
            await asyncio.gather(whole, ended, *readers, return_exceptions=True)
        await queue.put(None)

    async def _linger(self) -> None:
        await self._wait()
        await asyncio.sleep(LINGER)

    async def _pump(self, channel: int, fd: int, queue: asyncio.Queue[tuple[int, bytes] | None]) -> None:
        while data := await self._read(fd):
            await queue.put((channel, data))

    async def _read(self, fd: int) -> bytes:
        """Up to 32 KiB; b"" at the end. A pty master says EIO when the last process has closed the terminal."""
        while True:
            try:
                return os.read(fd, READ_SIZE)
            except BlockingIOError:
                if self._over:
                    return b""
                await self._quiet(fd)
            except OSError:
                return b""

    async def _quiet(self, fd: int) -> None:
        """Nothing to read: here, and only here, a reader may be stopped without losing anything."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("readers are tasks")
        self._idle.add(task)
        try:
            await _ready(fd)
        finally:
            self._idle.discard(task)

    async def write(self, data: bytes) -> None:
        """Write all of `data` to the process's stdin; what a process that no longer reads would miss is dropped."""
        view = memoryview(data)
        while view and self._input is not None:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                await _ready(self._input, write=True)
            except OSError:
                self.close_stdin()

    def close_stdin(self) -> None:
        """End of input. On a terminal that is the EOF character, for the console stays open."""
        if self._input is None:
            return
        if self.tty:
            try:
                os.write(self._input, b"\x04")
            except OSError:
                pass  # the process is gone: its input has ended anyway
            return
        os.close(self._input)
        self._input = None

    async def resize(self, rows: int, cols: int) -> None:
        await self._window(rows, cols)

    async def exit_code(self) -> int | None:
        """Waits for the end; None when nobody saw it."""
        return await self._wait()

    def close(self) -> None:
        """Release the file descriptors. The process goes on: an exec outlives its client."""
        for fd in (*self._outputs.values(), self._input):
            if fd is not None:
                os.close(fd)
        self._outputs, self._input = {}, None


async def _ready(fd: int, *, write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, _settle, future)
    try:
        await future
    finally:
        remove(fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def ends(console: int | None, stdin: int | None, stdout: int | None, stderr: int | None) -> tuple[dict[int, int], int | None]:
    """(outputs by channel, input) of an exec. A console is both: its input end is a duplicate, so that each can be closed."""
    if console is not None:
        return {STDOUT: console}, os.dup(console)
    outputs = {STDOUT: stdout, STDERR: stderr}
    return {channel: fd for channel, fd in outputs.items() if fd is not None}, stdin
