"""The link's session, without I/O: one class for both ends.

A `Wire` outlives its websockets. The host (agent.link, nodes.link) feeds it frames and sends what `frames()` returns; everything
that decides lives here and is tested without a socket.

Rule 1: the session's state changes in `connect`, `disconnect`, `_handshake_sent`, `_on_handshake` and `_live`, nowhere else.

Session, seen from either end (left: state, right: what moves it)

    IDLE         connect()                               -> HANDSHAKE
    HANDSHAKE    agent: Welcome received                 -> LIVE
                 control: Welcome sent                   -> LIVE
                 Refused sent or received                -> ENDED
    LIVE         disconnect()                            -> IDLE (sequences kept, streams reset)
    any          a violation                             -> raises ProtocolViolation; the host closes the websocket

Sequenced messages (`messages.SEQUENCED`) are numbered from 1 in each direction and kept until the peer acknowledges them. The
receiver acknowledges what its host calls `done` for, that is after it was persisted: delivery is at least once. Resuming a
session sends again what the peer had not acknowledged. A new session starts empty at both ends: it has a new epoch, under which
old messages mean nothing, and each host sends anew what its own truth (statuses, journal, rows) says.

Streams are opened by the control plane with growing ids. Each direction has a window of 256 KiB: `write` takes at most what the
window allows, the receiver gives it back with `consumed`. They do not survive their websocket: loss is a reset, never a
clean end.

Frames: text = one JSON message; binary = `>BIB` (kind 1, stream id, channel) and at most 32 KiB of payload.
"""

from __future__ import annotations

import json
import math
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from agent.protocol import messages as m
from agent.protocol.codec import decode, encode
from agent.protocol.errors import InvalidInput

MAX_TEXT = 8 << 20
MAX_DEPTH = 32
CREDIT_STEP = m.WINDOW // 4  # give credit back in steps of this size
_HEADER = struct.Struct(">BIB")
_DATA = 1


class ProtocolViolation(InvalidInput):
    """The peer broke the protocol; the websocket must be closed (code 1002). Never raised for our own mistakes."""

    code = "protocol_violation"


class LocalMisuse(RuntimeError):
    """This end used the Wire wrongly: a bug of ours."""


class State(Enum):
    IDLE = auto()
    HANDSHAKE = auto()
    LIVE = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Received:
    """A message for the host. `seq` is None for unsequenced ones; else the host calls `done(seq)` once it is safe."""

    message: Any
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """Payload of a stream. The host calls `consumed(stream, len(payload))` when it passed it on."""

    stream: int
    channel: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Writable:
    """The peer gave credit: `room(stream)` is above 0 again."""

    stream: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The peer is done with this sequenced message of ours: it will never be sent again."""

    message: Any


Event = Received | Data | Writable | Acknowledged


class _Stream:
    __slots__ = ("consumed", "eof_received", "eof_sent", "opened", "receivable", "sendable")

    def __init__(self) -> None:
        self.sendable = m.WINDOW
        self.receivable = m.WINDOW
        self.consumed = 0
        self.opened = False
        self.eof_sent: set[int] = set()
        self.eof_received: set[int] = set()


class Wire:
    """One end of a link session. `side` is `messages.AGENT` or `messages.CONTROL`. Not thread-safe: one loop owns it."""

    def __init__(self, side: str, *, max_unacknowledged: int = 10_000) -> None:
        if side not in (m.AGENT, m.CONTROL):
            raise LocalMisuse(f"side {side!r}")
        self.side = side
        self.state = State.IDLE
        self.session = ""
        self.received = 0  # highest sequence number the host is done with
        self._delivered = 0  # highest handed to the host
        self._sent = 0
        self._unacked: deque[tuple[int, Any]] = deque()
        self._max_unacked = max_unacknowledged
        self._out: deque[str | bytes] = deque()
        self._ack_due = False
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0

    # -- life of a connection ----------------------------------------------------------------------------------------

    def connect(self) -> None:
        """A new websocket is up. The agent sends Hello next; the control plane waits for it."""
        if self.state not in (State.IDLE, State.ENDED):
            raise LocalMisuse("connect() while connected")
        self.state = State.HANDSHAKE
        self._out.clear()
        self._delivered = self.received

    def disconnect(self, reason: str = "link lost") -> list[Event]:
        """The websocket is gone. Every open stream is reset; unacknowledged messages stay for the next one."""
        events: list[Event] = [Received(m.StreamReset(stream, reason)) for stream in self._streams]
        self._streams.clear()
        self._last_stream = 0
        self._out.clear()
        self._ack_due = False
        self.state = State.IDLE
        return events

    @property
    def unacknowledged(self) -> int:
        return len(self._unacked)

    @property
    def queued(self) -> int:
        """Frames that wait for `frames()`: a peer that asks and never reads lets them grow."""
        return len(self._out)

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Queue a message. Sequenced ones may be sent at any time and wait for the link; others need a live link."""
        kind = type(message)
        if self.side not in m.SENT_BY[kind]:
            raise LocalMisuse(f"{kind.__name__} is not sent by {self.side}")
        if kind in m.SEQUENCED:
            self._send_sequenced(message)
            return
        if self.state is State.HANDSHAKE:
            self._handshake_sent(message)
            return
        if self.state is not State.LIVE:
            raise LocalMisuse(f"{kind.__name__} without a live link")
        if not self._stream_sent(message):
            return
        self._queue(message)

    def _send_sequenced(self, message: Any) -> None:
        if len(self._unacked) >= self._max_unacked:
            raise LocalMisuse(f"{len(self._unacked)} messages unacknowledged: the host must coalesce while the link is away")
        self._sent += 1
        self._unacked.append((self._sent, message))
        if self.state is State.LIVE:
            self._queue(message, self._sent)

    def _handshake_sent(self, message: Any) -> None:
        if not isinstance(message, m.Hello | m.Welcome | m.Refused):
            raise LocalMisuse(f"{type(message).__name__} before the handshake is over")
        self._queue(message)
        if isinstance(message, m.Refused):
            self.state = State.ENDED
        elif isinstance(message, m.Welcome):
            self._live(message.session, message.resumed)

    def _queue(self, message: Any, seq: int | None = None) -> None:
        body = {"type": message.TYPE, **encode(message)}
        if seq is not None:
            body["seq"] = seq
        if self.received:
            body["ack"] = self.received
        self._ack_due = False
        # ASCII: a lone surrogate (a file name that is no UTF-8) would otherwise break the websocket, for ever.
        self._out.append(json.dumps(body, separators=(",", ":")))

    def frames(self) -> list[str | bytes]:
        """Everything to put on the websocket now, in order; adds a bare acknowledgement when one is due."""
        if self._ack_due and self.state is State.LIVE:
            self._queue(m.Ack())
        frames = list(self._out)
        self._out.clear()
        return frames

    def done(self, seq: int) -> None:
        """The host has persisted the sequenced message `seq` (and all before it)."""
        if seq > self._delivered:
            raise LocalMisuse(f"done({seq}) before it was delivered")
        if seq > self.received:
            self.received = seq
            self._ack_due = True

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, frame: str | bytes) -> list[Event]:
        """Take one frame off the websocket. Raises `ProtocolViolation`."""
        if self.state in (State.IDLE, State.ENDED):
            raise LocalMisuse("receive() without connect()")
        if isinstance(frame, bytes):
            return self._receive_data(frame)
        message, seq, ack = self._parse(frame)
        if self.state is State.HANDSHAKE:
            return self._on_handshake(message, seq)
        if isinstance(message, m.Hello | m.Welcome | m.Refused):
            raise ProtocolViolation(f"{message.TYPE} on a live link")
        events = self._acknowledged(ack)
        if (type(message) in m.SEQUENCED) != (seq is not None):
            raise ProtocolViolation(f"{message.TYPE}: sequence number {'missing' if seq is None else 'not expected'}")
        if seq is not None:
            return events + self._on_sequenced(message, seq)
        if isinstance(message, m.Ack):
            return events
        return events + self._on_stream_message(message)

    def _parse(self, frame: str) -> tuple[Any, int | None, int]:
        if len(frame) > MAX_TEXT:
            raise ProtocolViolation(f"message of {len(frame)} characters; the limit is {MAX_TEXT}")
        try:
            body = _DECODER.decode(frame)
        except (ValueError, RecursionError) as error:
            raise ProtocolViolation(f"not JSON: {error}") from error
        if not isinstance(body, dict):
            raise ProtocolViolation("not a JSON object")
        # Brackets inside strings count too, so this only spares the usual message the walk.
        if frame.count("{") + frame.count("[") > MAX_DEPTH and _deeper(body, MAX_DEPTH):
            raise ProtocolViolation(f"nested deeper than {MAX_DEPTH}")
        kind = m.BY_TYPE.get(str(body.get("type")))
        if kind is None:
            raise ProtocolViolation(f"unknown message type {str(body.get('type'))[:40]!r}")
        peer = m.CONTROL if self.side == m.AGENT else m.AGENT
        if peer not in m.SENT_BY[kind]:
            raise ProtocolViolation(f"{kind.TYPE} is never sent by the {peer} end")
        seq, ack = _number(body, "seq"), _number(body, "ack")
        fields = {key: value for key, value in body.items() if key not in ("type", "seq", "ack")}
        try:
            return decode(kind, fields, unknown="ignore"), seq, ack or 0
        except InvalidInput as error:
            raise ProtocolViolation(f"{kind.TYPE}: {error.detail}") from error

    def _on_handshake(self, message: Any, seq: int | None) -> list[Event]:
        expected: tuple[type[Any], ...] = (m.Hello,) if self.side == m.CONTROL else (m.Welcome, m.Refused)
        if not isinstance(message, expected) or seq is not None:
            raise ProtocolViolation(f"{message.TYPE} instead of the handshake")
        if isinstance(message, m.Refused):
            self.state = State.ENDED
        events: list[Event] = [Received(message)]
        if isinstance(message, m.Welcome):
            if message.resumed:
                events += self._acknowledged(message.received)
            self._live(message.session, message.resumed)
        return events

    def accept(self, hello: m.Hello, welcome: m.Welcome) -> list[Event]:
        """Control side: answer Hello. With `welcome.resumed` this Wire must be the one of `hello.session`."""
        events = self._acknowledged(hello.received) if welcome.resumed else []
        self.send(welcome)
        return events

    def _live(self, session: str, resumed: bool) -> None:
        self.session = session
        self.state = State.LIVE
        if not resumed:
            self.received = self._delivered = self._sent = 0
            self._unacked.clear()
        for seq, message in self._unacked:
            self._queue(message, seq)

    def _acknowledged(self, ack: int) -> list[Event]:
        if ack > self._sent:
            raise ProtocolViolation(f"acknowledges {ack}, but only {self._sent} were sent")
        events: list[Event] = []
        while self._unacked and self._unacked[0][0] <= ack:
            events.append(Acknowledged(self._unacked.popleft()[1]))
        return events

    def _on_sequenced(self, message: Any, seq: int) -> list[Event]:
        if seq <= self._delivered:
            self._ack_due = True  # a repeat: our acknowledgement was lost
            return []
        if seq != self._delivered + 1:
            raise ProtocolViolation(f"sequence number {seq} after {self._delivered}")
        self._delivered = seq
        return [Received(message, seq)]

    # -- streams -----------------------------------------------------------------------------------------------------

    def open_stream(
        self,
        target: str,
        container: str,
        *,
        args: Mapping[str, Any] | None = None,
        actor: str = "",
        operation: str = "",
    ) -> int:
        """Control side: queue StreamOpen and return the stream's id; StreamOpened or StreamRefused follows."""
        if self.state is not State.LIVE:
            raise LocalMisuse("open_stream() without a live link")
        self._last_stream += 1
        self._streams[self._last_stream] = _Stream()
        self._queue(m.StreamOpen(self._last_stream, target, container, args or {}, actor, operation))
        return self._last_stream

    def room(self, stream: int) -> int:
        """Bytes that may be written to `stream` now; 0 when it is closed."""
        state = self._streams.get(stream)
        return state.sendable if state else 0

    def is_open(self, stream: int) -> bool:
        return stream in self._streams

    def write(self, stream: int, channel: int, payload: bytes) -> int:
        """Queue as much of `payload` as the window allows and return that length; a closed stream swallows it all."""
        state = self._streams.get(stream)
        if state is None:
            return len(payload)
        if channel in state.eof_sent:
            raise LocalMisuse(f"data on channel {channel} of stream {stream} after its end")
        taken = min(len(payload), state.sendable)
        for start in range(0, taken, m.MAX_DATA):
            self._out.append(_HEADER.pack(_DATA, stream, channel) + payload[start : min(start + m.MAX_DATA, taken)])
        state.sendable -= taken
        return taken

    def consumed(self, stream: int, count: int) -> None:
        """`count` received bytes were passed on: give the window back, in steps."""
        state = self._streams.get(stream)
        if state is None:
            return
        state.consumed += count
        if state.consumed >= CREDIT_STEP:
            self._queue(m.StreamCredit(stream, state.consumed))
            state.receivable += state.consumed
            state.consumed = 0

    def _stream_sent(self, message: Any) -> bool:
        """Book a stream message that we send; False when its stream is gone and the message is moot."""
        if not isinstance(message, _STREAM_MESSAGES):
            return True
        state = self._streams.get(message.stream)
        if state is None:
            return False
        if isinstance(message, m.StreamOpened):
            state.opened = True
        elif isinstance(message, m.StreamEof):
            state.eof_sent.add(message.channel)
        elif isinstance(message, m.StreamExit | m.StreamReset | m.StreamRefused):
            del self._streams[message.stream]
        return True

    def _on_stream_message(self, message: Any) -> list[Event]:
        if isinstance(message, m.StreamOpen):
            if message.stream <= self._last_stream:
                raise ProtocolViolation(f"stream {message.stream} opened twice")
            self._last_stream = message.stream
            self._streams[message.stream] = _Stream()
            return [Received(message)]
        if not isinstance(message, _STREAM_MESSAGES):
            return [Received(message)]
        state = self._known(message.stream)
        if state is None:
            return []
        if isinstance(message, m.StreamCredit):
            if message.bytes <= 0 or state.sendable + message.bytes > m.WINDOW:
                raise ProtocolViolation(f"credit of {message.bytes} overflows the window of stream {message.stream}")
            state.sendable += message.bytes
            return [Writable(message.stream)]
        if isinstance(message, m.StreamOpened):
            state.opened = True
        elif isinstance(message, m.StreamEof):
            state.eof_received.add(message.channel)
        elif isinstance(message, m.StreamExit | m.StreamReset | m.StreamRefused):
            del self._streams[message.stream]
        return [Received(message)]

    def _known(self, stream: int) -> _Stream | None:
        # A message may cross our own reset on the way: ids at or below the last one are streams that ended.
        state = self._streams.get(stream)
        if state is None and stream > self._last_stream:
            raise ProtocolViolation(f"stream {stream} was never opened")
        return state

    def _receive_data(self, frame: bytes) -> list[Event]:
        if self.state is not State.LIVE:
            raise ProtocolViolation("data before the handshake is over")
        if len(frame) < _HEADER.size:
            raise ProtocolViolation("binary frame shorter than its header")
        kind, stream, channel = _HEADER.unpack_from(frame)
        payload = frame[_HEADER.size :]
        if kind != _DATA or len(payload) > m.MAX_DATA:
            raise ProtocolViolation(f"binary frame of kind {kind} with {len(payload)} bytes")
        if channel > m.STDERR:
            raise ProtocolViolation(f"channel {channel}: there are 0, 1 and 2")
        state = self._known(stream)
        if state is None:
            return []
        if len(payload) > state.receivable:
            raise ProtocolViolation(f"stream {stream} overran its window by {len(payload) - state.receivable} bytes")
        if channel in state.eof_received:
            raise ProtocolViolation(f"data on channel {channel} of stream {stream} after its end")
        state.receivable -= len(payload)
        return [Data(stream, channel, payload)]


_STREAM_MESSAGES = (
    m.StreamOpened,
    m.StreamRefused,
    m.StreamEof,
    m.StreamResize,
    m.StreamExit,
    m.StreamCredit,
    m.StreamReset,
)


def _integer(text: str) -> int:
    value = int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError("an integer beyond 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


# NaN, infinities and endless integers are legal for Python's JSON and poison for databases.
_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=_finite)


def _deeper(value: Any, limit: int) -> bool:
    """Whether JSON data nests deeper than `limit`. No recursion: that is what is being guarded against."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)


def _number(body: Mapping[str, Any], key: str) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise ProtocolViolation(f"{key}: expected a positive integer")
    return value
