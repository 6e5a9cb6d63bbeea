"""The stream socket's client: a ticket by REST, then frames at /ws/stream (docs/howto/streams.md)."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from controlplane.cli.session import EXIT_CODES, Failure, Session

T = TypeVar("T")
STDIN, STDOUT, STDERR = 0, 1, 2
OPEN_TIMEOUT = 30.0
CHUNK = 64 << 10  # bytes of input a frame


@dataclass(frozen=True, slots=True)
class Output:
    """What a process wrote. `source` numbers the container among several, see `Stream.sources`."""

    channel: int
    source: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """The node has joined the pipes: input may be sent from now on."""


@dataclass(frozen=True, slots=True)
class Ended:
    """`code` is None when nobody saw the exit."""

    code: int | None
    error: str


class Line:
    """A websocket whose event loop runs in a thread of its own; others wait for it.

    Never websockets' threading client: it reads and writes one TLS object from two threads, which CPython's ssl does not lock
    before 3.13. Session tickets arrive while the first request is written, so that one connection in some hundreds hangs.
    """

    def __init__(self) -> None:
        import asyncio  # 40 ms that other commands save

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="line")
        self._thread.start()
        self._socket: Any = None
        self._ended = False

    def _do(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def open(self, address: str, **options: Any) -> None:
        """Raises what `websockets.asyncio.client.connect` does."""

        async def connected() -> Any:
            from websockets.asyncio.client import connect

            return await connect(address, **options)

        self._socket = self._do(connected())

    def recv(self, timeout: float | None = None) -> str | bytes:
        """The next frame. Raises ConnectionClosed; TimeoutError, after which the line is of no use any more."""
        frame: str | bytes = self._do(self._socket.recv(), timeout)
        return frame

    def send(self, frame: str | bytes) -> None:
        """Nothing when we have ended the line ourselves. Raises ConnectionClosed."""
        if not self._ended:
            self._do(self._socket.send(frame))

    def close(self) -> None:
        if self._socket is not None:
            self._do(self._socket.close())

    def end(self) -> None:
        """Close, and let the thread go."""
        try:
            self.close()
        finally:
            self._ended = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Stream:
    """One open stream. One thread reads `items`, others may send."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.sources: dict[int, str] = {}

    def items(self) -> Iterator[Output | Opened | Ended]:
        """What comes, in order, `Ended` last. Raises Failure when the server refuses, or the line breaks before the end."""
        from websockets.exceptions import ConnectionClosed

        while True:
            try:
                frame = self._line.recv()
            except ConnectionClosed as closed:
                reason = closed.rcvd.reason if closed.rcvd else ""
                raise Failure(f"The stream broke off{f': {reason}' if reason else ''}.", 5) from None
            if isinstance(frame, bytes):
                yield Output(frame[0], frame[1], frame[2:])
                continue
            item = self._told(json.loads(frame))
            if item is not None:
                yield item
            if isinstance(item, Ended):
                return

    def _told(self, message: Mapping[str, Any]) -> Opened | Ended | None:
        kind = message.get("type")
        if kind == "error":
            raise Failure(str(message.get("detail", "")), EXIT_CODES.get(int(message.get("status") or 0), 1), message)
        if kind == "source":
            self.sources[int(message["index"])] = str(message["name"])
        if kind == "exit":
            return Ended(message.get("code"), str(message.get("error") or ""))
        return Opened() if kind == "opened" else None

    # A line that has broken is told by `items`, in the reading thread: what sends has nothing to add.

    def write(self, data: bytes) -> None:
        """Input of the process."""
        for start in range(0, len(data), CHUNK):
            self._send(bytes((STDIN, 0)) + data[start : start + CHUNK])

    def end_input(self) -> None:
        """Half-close: the process reads end of file, its output goes on."""
        self._send(json.dumps({"type": "eof"}))

    def resize(self, rows: int, cols: int) -> None:
        """The terminal's new size, in characters."""
        self._send(json.dumps({"type": "resize", "rows": rows, "cols": cols}))

    def close(self) -> None:
        """From our side; what was opened in the container goes on."""
        self._line.close()

    def _send(self, frame: str | bytes) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):
            self._line.send(frame)


@contextlib.contextmanager
def open_stream(
    session: Session, target: str, args: Mapping[str, Any], *, container: str = "", service: str = ""
) -> Iterator[Stream]:
    """A stream to a container, or to a service's logs. Raises Failure."""
    from websockets.exceptions import InvalidHandshake
    from websockets.typing import Origin

    named = {"container": container} if container else {"service": service}
    ticket = session.post("/api/v1/streams", {"target": target, **named, "args": dict(args)})["ticket"]
    server = session.context.server
    address = f"wss://{server.removeprefix('https://')}/ws/stream"
    line = Line()
    try:
        try:
            line.open(
                address,
                ssl=session.trust(),
                origin=Origin(server),
                compression=None,  # bytes of a terminal: the round trip counts, not the volume
                max_size=None,
                open_timeout=OPEN_TIMEOUT,
            )
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise Failure(f"Cannot open a stream to {server}: {error}", 5) from None
        line.send(json.dumps({"ticket": ticket}))
        yield Stream(line)
    finally:
        line.end()
