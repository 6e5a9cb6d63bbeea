"""Many ends in one round of the loop: put on record together, told, reaped; and a kill -9 before each of those steps. No root."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.supervisor import wire
from agent.supervisor.ledger import Ledger
from tests.pace import patience

HERE = Path(__file__).parent
DEADLINE = patience(30.0)  # s
ENDS = {  # how each of them ends, and with what code and signal
    "asked": ("read x < gate; exit 7", None, (7, None)),
    "killed": ("exec sleep 600", signal.SIGKILL, (137, 9)),
    "done": ("read x < gate; exit 0", None, (0, None)),
    "hung-up": ("exec sleep 600", signal.SIGHUP, (129, 1)),
}


class Told:
    """A subscriber, and whoever asks."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(path)
        self.events: list[dict[str, Any]] = []
        self.number = 0
        self.first = self.ask("subscribe")["containers"]

    def ask(self, operation: str, **more: Any) -> dict[str, Any]:
        self.number += 1
        wire.send(self.sock, wire.pack({"n": self.number, "op": operation, **more})[0], [])
        while True:
            message = self.receive()
            if message.get("n") == self.number:
                return message["ok"]  # type: ignore[no-any-return]  # plain data

    def receive(self) -> dict[str, Any]:
        message, _fds = wire.receive(self.sock)  # type: ignore[arg-type]  # socket.socket is a _socket.socket
        if "event" in message:
            self.events.append(message["event"])
        return message

    def drain(self) -> None:
        """All that was sent before the other end died."""
        with contextlib.suppress(wire.Closed, ConnectionError):
            while True:
                self.receive()

    def until(self, kind: str, count: int) -> list[dict[str, Any]]:
        while len(found := [event for event in self.events if event["kind"] == kind]) < count:
            self.receive()
        return found

    def ends(self) -> dict[str, tuple[int | None, int | None]]:
        """By container; asserts that none was told twice."""
        found = [event["container"] for event in self.events if event["kind"] == "exit"]
        assert len({record["id"] for record in found}) == len(found)
        return {record["id"]: (record["exit_code"], record["signal"]) for record in found}


class Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.flag = path / "flag"
        self.gate = path / "gate"
        os.mkfifo(self.gate)
        self.running: list[subprocess.Popen[bytes]] = []
        self.pids: dict[str, int] = {}
        self.pidfds: list[int] = []
        self.told: list[Told] = []

    def supervisor(self, step: int) -> tuple[subprocess.Popen[bytes], Told]:
        words = ["--root", str(self.path / "run"), "--state", str(self.path / "state"), "--cgroup-parent", "/none"]
        path = self.path / "run" / "supervisor.sock"
        path.unlink(missing_ok=True)
        log = str(self.path / "steps")
        program = [sys.executable, "-I", "-S", str(HERE / "dying.py"), str(self.flag), str(step), log, *words]
        process = subprocess.Popen(program, cwd=self.path, stderr=subprocess.DEVNULL)
        self.running.append(process)
        deadline = time.monotonic() + DEADLINE
        while not path.exists():
            assert process.poll() is None, f"it ended with {process.returncode}"
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.005)
        told = Told(str(path))
        self.told.append(told)
        return process, told

    def steps(self) -> list[str]:
        return (self.path / "steps").read_text().split()

    def begin(self, told: Told, id_: str, script: str, **more: Any) -> None:
        config = {"process": {"args": ["sh", "-c", script.replace("gate", str(self.gate))]}}
        told.ask("create", id=id_, config=config, rootfs=[], log={"driver": "none"}, **more)
        self.knows(id_, told.ask("start", id=id_)["pid"])

    def knows(self, id_: str, pid: int) -> None:
        """A container's process, which goes with the test."""
        self.pids[id_] = pid
        self.pidfds.append(os.pidfd_open(pid))

    def open_gate(self, readers: int) -> None:
        """Every `read x < gate` gets its line."""
        with open(self.gate, "wb", buffering=0) as file:
            for _ in range(readers):
                file.write(b"\n")
            for id_, (_script, number, _end) in ENDS.items():
                if number is None and id_ in self.pids:
                    zombie(self.pids[id_])

    def end_all_at_once(self, process: subprocess.Popen[bytes]) -> None:
        """Kill every container while the supervisor is stopped, so that it finds all of them in one round."""
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
            zombie(pid)
        self.flag.touch()
        process.send_signal(signal.SIGCONT)

    def noted(self) -> dict[str, dict[str, Any]]:
        ledger = Ledger(str(self.path / "state"), lambda _seconds, _call: None)
        try:
            return {id_: ledger.read(place) for id_, place in ledger.newest().items()}
        finally:
            ledger.close()

    def close(self) -> None:
        for told in self.told:
            told.sock.close()
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
        for fd in self.pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def zombie(pid: int) -> None:
    """Wait until a process has ended."""
    fd = os.pidfd_open(pid)
    try:
        assert select.select([fd], [], [], DEADLINE)[0], f"process {pid} does not end"
    finally:
        os.close(fd)


def end_of(values: dict[str, Any]) -> tuple[int | None, int | None]:
    """In the ledger, where a field that is as it first was is left out."""
    return values.get("exit_code"), values.get("signal")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def end_all(place: Place, process: subprocess.Popen[bytes]) -> None:
    """All of ENDS at once, as the supervisor sees it."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    for id_, (_script, number, _end) in ENDS.items():
        if number is not None:
            os.kill(place.pids[id_], number)
            zombie(place.pids[id_])
    place.open_gate(sum(number is None for _script, number, _end in ENDS.values()))
    place.flag.touch()
    process.send_signal(signal.SIGCONT)


def test_ends_are_durable_before_they_are_told_and_told_before_they_are_reaped(place: Place) -> None:
    process, told = place.supervisor(-1)
    for id_, (script, _number, _end) in ENDS.items():
        place.begin(told, id_, script)
    end_all(place, process)
    told.until("exit", len(ENDS))
    assert told.ends() == {id_: end for id_, (_script, _number, end) in ENDS.items()}
    told.ask("list")  # a round later
    assert place.steps()[: 2 + 2 * len(ENDS)] == ["write", "sync", *["tell"] * len(ENDS), *["reap"] * len(ENDS)]


@pytest.mark.parametrize("step", range(2 + 2 * len(ENDS)))
def test_a_kill_before_any_step_leaves_each_end_on_record_or_to_be_found(place: Place, step: int) -> None:
    process, told = place.supervisor(step)
    for id_, (script, _number, _end) in ENDS.items():
        place.begin(told, id_, script)
    end_all(place, process)
    assert process.wait(DEADLINE) == -signal.SIGKILL
    told.drain()
    before, noted = told.ends(), place.noted()
    assert {id_: ENDS[id_][2] for id_ in before} == before
    for id_ in ENDS:
        if step >= 1:  # after the write; the sync is for the power
            assert (noted[id_]["state"], end_of(noted[id_])) == ("exited", ENDS[id_][2])
        else:
            assert (noted[id_]["state"], noted[id_]["pid"]) == ("running", place.pids[id_])
    assert len(before) == max(0, min(step - 2, len(ENDS)))
    place.flag.unlink()
    _process, again = place.supervisor(-1)
    for id_ in ENDS:
        record = again.ask("wait", id=id_)["container"]
        found = (record["exit_code"], record["signal"])
        assert record["state"] == "exited"
        # what was not on record may have been reaped by whoever inherited it: then it is unknown, and not invented
        assert found == ENDS[id_][2] if record["exit_known"] else (step == 0 and found == (None, None))


def test_two_hundred_ends_are_each_told_once(place: Place) -> None:
    process, told = place.supervisor(-1)
    expected = {}
    for number in range(200):
        code = number % 120
        if number % 3:
            place.begin(told, f"c{number}", f"exec sleep {600 + number}")
            expected[f"c{number}"] = (128 + 9, 9) if number % 3 == 1 else (128 + 15, 15)
        else:
            place.begin(told, f"c{number}", f"read x < gate; exit {code}")
            expected[f"c{number}"] = (code, None)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    with open(place.gate, "wb", buffering=0) as file:
        for id_, (_code, number_) in expected.items():
            if number_ is None:
                file.write(b"\n")
            else:
                os.kill(place.pids[id_], number_)
        for pid in place.pids.values():
            zombie(pid)
    place.flag.touch()
    process.send_signal(signal.SIGCONT)
    told.until("exit", 200)
    told.ask("list")
    assert told.ends() == expected
    steps = place.steps()
    assert (steps.count("sync"), steps.index("sync") < steps.index("tell")) == (1, True)
    assert {id_: end_of(values) for id_, values in place.noted().items()} == expected


def test_restart_policies_hold_in_a_group(place: Place) -> None:
    process, told = place.supervisor(-1)
    policies = {
        "no": {"name": "no"},
        "always": {"name": "always"},
        "on-failure": {"name": "on-failure", "max": 1},
        "unless-stopped": {"name": "unless-stopped"},
    }
    for name, policy in policies.items():
        place.begin(told, name, "exec sleep 600", restart=policy)
    place.end_all_at_once(process)
    exits = told.until("exit", len(policies))
    assert {event["id"]: event["container"]["state"] for event in exits} == {
        name: "exited" if name == "no" else "restarting" for name in policies
    }
    assert place.steps()[:2] == ["write", "sync"]
    again = told.until("restart", len(policies) - 1)
    for event in again:
        place.knows(event["id"], event["container"]["pid"])
    assert {event["id"]: event["container"]["restart_count"] for event in again} == {name: 1 for name in policies if name != "no"}


def test_a_restart_that_was_decided_comes_true_after_a_kill(place: Place) -> None:
    """The decision is in the same record as the end."""
    process, told = place.supervisor(1)
    place.begin(told, "always", "exec sleep 600", restart={"name": "always"})
    place.begin(told, "no", "exec sleep 600")
    place.end_all_at_once(process)
    assert process.wait(DEADLINE) == -signal.SIGKILL
    place.flag.unlink()
    _process, again = place.supervisor(-1)
    (event,) = again.until("restart", 1)
    place.knows("always", event["container"]["pid"])
    assert (event["id"], event["container"]["restart_count"]) == ("always", 1)
    states = {record["id"]: record["state"] for record in again.ask("list")["containers"]}
    assert states == {"always": "running", "no": "exited"}
