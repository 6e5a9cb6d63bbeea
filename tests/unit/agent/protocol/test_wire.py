"""The link session, both ends joined in memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.protocol import messages as m
from agent.protocol.states import TaskState
from agent.protocol.wire import Acknowledged, Data, LocalMisuse, ProtocolViolation, Received, State, Wire, Writable


def hello(agent: Wire) -> m.Hello:
    return m.Hello((1,), "0.1", "boot", 3, 7, session=agent.session, received=agent.received)


def welcome(session: str = "s1", *, resumed: bool = False, received: int = 0) -> m.Welcome:
    return m.Welcome(1, "node", session, 4, resumed, received, 2.0, 6.0, "registry:443")


def report(number: int) -> m.StatusReport:
    return m.StatusReport(4, (m.TaskStatus(f"t{number}", TaskState.RUNNING, 1.0),))


class Pair:
    """Two ends; `pump` carries frames until neither has any, or drops them when the link is down."""

    def __init__(self) -> None:
        self.agent, self.control = Wire(m.AGENT), Wire(m.CONTROL)
        self.at_agent: list[object] = []
        self.at_control: list[object] = []

    def join(self, *, resumed: bool = False) -> None:
        self.agent.connect()
        self.control.connect()
        greeting = hello(self.agent)
        self.agent.send(greeting)
        for frame in self.agent.frames():
            self.control.receive(frame)
        self.control.accept(greeting, welcome(resumed=resumed, received=self.control.received))
        self.pump()

    def pump(self, *, done: bool = True) -> None:
        while True:
            moved = False
            for source, sink, seen in ((self.agent, self.control, self.at_control), (self.control, self.agent, self.at_agent)):
                for frame in source.frames():
                    moved = True
                    for event in sink.receive(frame):
                        if not isinstance(event, Acknowledged):
                            seen.append(event)
                        if done and isinstance(event, Received) and event.seq:
                            sink.done(event.seq)
            if not moved:
                return

    def cut(self) -> None:
        self.agent.disconnect()
        self.control.disconnect()


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.join()
    return pair


def messages(events: list[object]) -> list[object]:
    return [event.message for event in events if isinstance(event, Received)]


def test_handshake_makes_both_ends_live(pair: Pair) -> None:
    assert pair.agent.state is pair.control.state is State.LIVE
    assert pair.agent.session == pair.control.session == "s1"


def test_a_message_before_the_handshake_is_a_violation() -> None:
    control = Wire(m.CONTROL)
    control.connect()
    with pytest.raises(ProtocolViolation, match="instead of the handshake"):
        control.receive('{"type":"heartbeat","epoch":1,"assign_rev":1,"sent":1.0}')


def test_each_side_refuses_messages_of_its_own_side(pair: Pair) -> None:
    with pytest.raises(ProtocolViolation, match="never sent by the agent"):
        pair.control.receive('{"type":"action","epoch":1,"action_id":"a","kind":"k","seq":1}')
    with pytest.raises(LocalMisuse):
        pair.agent.send(m.Action(1, "a", "container_stop"))


def test_unprocessed_messages_come_again_after_a_resume(pair: Pair) -> None:
    pair.agent.send(report(1))
    pair.agent.send(report(2))
    pair.pump(done=False)  # delivered, but the control plane died before it stored them
    pair.cut()
    pair.at_control.clear()
    pair.agent.send(report(3))  # queued while the link is away
    pair.join(resumed=True)
    assert messages(pair.at_control) == [report(1), report(2), report(3)]
    assert pair.agent.unacknowledged == 0


def test_processed_messages_do_not_come_again(pair: Pair) -> None:
    pair.agent.send(report(1))
    for frame in pair.agent.frames():
        for event in pair.control.receive(frame):
            assert isinstance(event, Received)
            pair.control.done(event.seq or 0)
    pair.cut()  # the acknowledgement itself was lost
    pair.join(resumed=True)
    assert pair.at_control == []
    assert pair.agent.unacknowledged == 0


def test_a_new_session_starts_empty(pair: Pair) -> None:
    pair.agent.send(report(1))
    pair.pump()
    pair.agent.send(report(2))
    pair.cut()
    pair.control = Wire(m.CONTROL)  # another web process that knows nothing
    pair.at_control.clear()
    pair.join(resumed=False)
    pair.agent.send(report(3))
    pair.pump()
    assert pair.at_control == [Received(report(3), 1)]


def test_the_sender_learns_what_was_acknowledged(pair: Pair) -> None:
    pair.agent.send(report(1))
    for frame in pair.agent.frames():
        for event in pair.control.receive(frame):
            pair.control.done(event.seq or 0)  # type: ignore[union-attr]  # only Received here
    events = [event for frame in pair.control.frames() for event in pair.agent.receive(frame)]
    assert events == [Acknowledged(report(1))]


def test_a_gap_in_the_sequence_is_a_violation(pair: Pair) -> None:
    with pytest.raises(ProtocolViolation, match="sequence number 5 after 0"):
        pair.control.receive('{"type":"status_report","epoch":1,"tasks":[],"seq":5}')


def test_an_acknowledgement_of_the_unsent_is_a_violation(pair: Pair) -> None:
    with pytest.raises(ProtocolViolation, match="acknowledges 9"):
        pair.control.receive('{"type":"ack","ack":9}')


@pytest.mark.parametrize(
    "frame",
    [
        "{",
        "[]",
        '{"type":"nonsense"}',
        '{"type":"heartbeat"}',
        '{"type":"heartbeat","epoch":"x","assign_rev":1,"sent":1}',
        b"",
        b"\x02\0\0\0\x01\0x",
    ],
)
def test_malformed_frames_are_violations(pair: Pair, frame: str | bytes) -> None:
    with pytest.raises(ProtocolViolation):
        pair.control.receive(frame)


def test_unknown_fields_are_ignored(pair: Pair) -> None:
    events = pair.control.receive('{"type":"heartbeat","epoch":1,"assign_rev":1,"sent":1.0,"new_in_v2":true}')
    assert messages(list(events)) == [m.Heartbeat(1, 1, 1.0)]


def open_exec(pair: Pair) -> int:
    stream = pair.control.open_stream("exec", "c1", args={"command": ["sh"]})
    pair.pump()
    pair.agent.send(m.StreamOpened(stream))
    pair.pump()
    return stream


def test_a_stream_stops_at_its_window_and_goes_on_with_credit(pair: Pair) -> None:
    stream = open_exec(pair)
    pair.at_control.clear()
    assert pair.agent.write(stream, m.STDOUT, b"x" * (m.WINDOW + 1)) == m.WINDOW
    assert pair.agent.room(stream) == 0
    pair.pump()
    data = [event for event in pair.at_control if isinstance(event, Data)]
    assert sum(len(event.payload) for event in data) == m.WINDOW
    assert all(len(event.payload) <= m.MAX_DATA for event in data)
    pair.control.consumed(stream, m.WINDOW)
    pair.at_agent.clear()
    pair.pump()
    assert pair.at_agent == [Writable(stream)]
    assert pair.agent.room(stream) == m.WINDOW


def test_a_full_stream_does_not_stop_another(pair: Pair) -> None:
    first, second = open_exec(pair), open_exec(pair)
    pair.agent.write(first, m.STDOUT, b"x" * m.WINDOW)
    assert pair.agent.write(second, m.STDOUT, b"y") == 1


def test_overrunning_the_window_is_a_violation(pair: Pair) -> None:
    stream = open_exec(pair)
    frame = b"\x01" + stream.to_bytes(4, "big") + b"\x01" + b"x" * m.MAX_DATA
    for _ in range(m.WINDOW // m.MAX_DATA):
        pair.control.receive(frame)
    with pytest.raises(ProtocolViolation, match="overran"):
        pair.control.receive(frame)


def test_end_of_input_is_not_the_end_of_the_stream(pair: Pair) -> None:
    stream = open_exec(pair)
    pair.control.send(m.StreamEof(stream, m.STDIN))
    pair.pump()
    pair.at_control.clear()
    pair.agent.write(stream, m.STDOUT, b"late")
    pair.agent.send(m.StreamExit(stream, 3))
    pair.pump()
    assert pair.at_control == [Data(stream, m.STDOUT, b"late"), Received(m.StreamExit(stream, 3))]
    assert not pair.control.is_open(stream)


def test_messages_that_cross_a_reset_are_dropped(pair: Pair) -> None:
    stream = open_exec(pair)
    pair.control.send(m.StreamReset(stream, "client gone"))
    pair.agent.write(stream, m.STDOUT, b"on the way")
    pair.at_control.clear()
    pair.pump()
    assert pair.at_control == []
    assert pair.agent.write(stream, m.STDOUT, b"after") == len(b"after")


def test_data_for_a_stream_never_opened_is_a_violation(pair: Pair) -> None:
    with pytest.raises(ProtocolViolation, match="never opened"):
        pair.agent.receive(b"\x01\0\0\0\x09\0x")


def test_a_lost_link_resets_every_stream(pair: Pair) -> None:
    stream = open_exec(pair)
    assert pair.agent.disconnect("cable cut") == [Received(m.StreamReset(stream, "cable cut"))]
    assert not pair.agent.is_open(stream)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["send", "pump", "pump_undone", "cut", "lose_ack"]), max_size=40))
def test_every_report_arrives_at_least_once_and_in_order(steps: list[str]) -> None:
    pair = Pair()
    pair.join()
    sent: list[m.StatusReport] = []
    for step in steps:
        if step == "send":
            sent.append(report(len(sent)))
            pair.agent.send(sent[-1])
        elif step == "pump":
            pair.pump()
        elif step == "pump_undone":
            pair.pump(done=False)
            pair.cut()
            pair.join(resumed=True)
        elif step == "cut":
            pair.agent.frames()  # lost on the way
            pair.cut()
            pair.join(resumed=True)
        else:
            pair.control.frames()
    pair.pump()
    seen = messages(pair.at_control)
    first = [item for index, item in enumerate(seen) if item not in seen[:index]]
    assert first == sent
