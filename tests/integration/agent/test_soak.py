"""Start and stop over and over, and kill -9 of agent, supervisor and shims at random: nothing leaks, no container is touched.

Every third container has a shim.

WHARF_SOAK=1 is the full size: 1,000 cycles; 200 running containers and 40 kills. (pytest -s shows the figures.)
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.supervisor import shim
from agent.supervisor.processes import start_time
from tests.bench.supervisor_memory import pss
from tests.e2e.ledger import descriptors
from tests.nodes import PrivateNode, cgroup_directories

FULL = os.environ.get("WHARF_SOAK") == "1"
CYCLES, RUNNING, KILLS = (1000, 200, 40) if FULL else (20, 8, 6)
DEADLINE = 60.0
FLAT = 768  # KiB that a process may grow by over all cycles: arenas that are not quite full
ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
    pytest.mark.timeout(1800 if FULL else 120),
]


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        time.sleep(0.02)
    return value


class Agent:
    """The agent's process, begun again whenever it was killed; and its supervisor."""

    def __init__(self, node: PrivateNode) -> None:
        self.node = node
        self.begin()

    def begin(self) -> None:
        words = [sys.executable, "-m", "tests.integration.agent.soaked_agent", str(self.node.home), self.node.cgroup]
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "open"

    def tell(self, do: str, name: str = "") -> None:
        assert self.process.stdin is not None
        shimmed = name[1:].isdecimal() and int(name[1:]) % 3 == 0
        order = {"do": do, "name": name, **({"isolation": "shim"} if shimmed else {})}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the agent ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def ask(self, do: str, name: str = "") -> Any:
        self.tell(do, name)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.reap()

    def reap(self) -> None:
        self.process.wait(DEADLINE)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # an order that it did not live to read
                pipe.close()  # type: ignore[union-attr]  # both were asked for

    def supervisors(self) -> list[int]:
        return self._found(shims=False)

    def shims(self) -> list[int]:
        """With the stems that they are cloned from."""
        return self._found(shims=True)

    def _found(self, shims: bool) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                ours = str(self.node.home / "run").encode() in words and b"--check" not in words
                alike = (path.with_name("comm").read_bytes().strip() == shim.NAME) is shims
                # a created container's process, until it execs, looks the same but for its cgroup
                if ours and alike and f"/{self.node.cgroup}/supervisor\n" in path.with_name("cgroup").read_text():
                    found.append(int(path.parent.name))
        return found

    def supervisor(self) -> int:
        """The one there is: also while a killed one is being replaced."""
        return int(until(lambda: len(found := self.supervisors()) == 1 and found[0], "one supervisor"))

    def renew(self) -> None:
        """New processes both."""
        self.kill()
        os.kill(self.supervisor(), signal.SIGKILL)
        until(lambda: not self.supervisors(), "the supervisor is dead")
        self.begin()

    def living(self) -> set[tuple[str, int, int]]:
        """(name, pid, start time) of the containers, by the kernel's word on those that the agent names."""
        return {(name, pid, start_time(pid) or 0) for name, pid in self.ask("list").items() if pid}

    def end(self) -> None:
        pid = self.supervisor()
        self.process.stdin.close()  # type: ignore[union-attr]  # as above
        self.reap()
        until(lambda: pid not in self.supervisors(), "the supervisor has ended")


@pytest.fixture
def agent(private_node: PrivateNode) -> Iterator[Agent]:
    agent = Agent(private_node)
    yield agent
    for name in agent.ask("list"):
        agent.ask("remove", name)
    agent.end()


def holdings(agent: Agent) -> Counter[str]:
    """Everything that containers make outside themselves, and what the two processes hold."""
    home, links = agent.node.home, subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    cgroups = [path for top in cgroup_directories(agent.node.cgroup) for path, _, _ in os.walk(top)]
    held = Counter(
        {
            "cgroups": len(cgroups),
            "processes": sum(len(_processes(path)) for path in cgroups if "/unified/" in path or "/pids/" in path),
            "mounts": len(mounts),
            "network namespaces": sum(" nsfs " in line or " - nsfs" in line for line in mounts),
            "links": len(json.loads(links)),
            "lines of the packet filter": len(rules.splitlines()),
        }
    )
    for path, names, files in os.walk(home):
        held.update(_masked(os.path.relpath(os.path.join(path, name), home)) for name in (*names, *files))
    for who, pid in (("agent", agent.process.pid), ("supervisor", agent.supervisor())):
        held.update({f"{who}: {kind}": count for kind, count in descriptors(pid).items()})
    return held


def _masked(path: str) -> str:
    """Without what differs from container to container."""
    return "file " + re.sub(r"[0-9a-z]{25,}|[0-9]+", "N", path)


def _processes(cgroup: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return Path(cgroup, "cgroup.procs").read_text().split()
    return []


def nothing_more(agent: Agent, before: Counter[str]) -> None:
    """As much as before; the kernel takes its time with namespaces and cgroups."""
    excess: Counter[str] = Counter()

    def even() -> bool:
        excess.clear()
        excess.update(holdings(agent) - before)
        return not excess

    try:
        until(even, "even")
    except AssertionError:
        pytest.fail(f"left over: {dict(excess)}")


def warmed(agent: Agent) -> Counter[str]:
    """What is held once everything has been done once."""
    for _ in range(3):
        for name in ("w0", "w1"):  # with a shim and without
            agent.ask("run", name)
            agent.ask("remove", name)
    looks = [holdings(agent)]

    def stands_still() -> bool:
        looks.append(holdings(agent))
        return looks[-1] == looks[-2]

    until(stands_still, "nothing changes any more")
    return looks[-1]


def test_cycles_leave_nothing_and_cost_no_memory(agent: Agent) -> None:
    before, began = warmed(agent), time.monotonic()
    sizes: list[tuple[int, int, int]] = []
    for number in range(1, CYCLES + 1):
        name = f"c{number % 7}"
        agent.ask("run", name)
        if number % 2:
            agent.ask("stop", name)
            agent.ask("start", name)
        agent.ask("remove", name)
        if number % (CYCLES // 5) == 0:
            sizes.append((number, pss(agent.process.pid), pss(agent.supervisor())))
    took = time.monotonic() - began
    nothing_more(agent, before)
    first, last = sizes[0], sizes[-1]
    print(f"{CYCLES} cycles in {took:.0f} s; (cycle, KiB of the agent, KiB of the supervisor): {sizes}")
    assert last[2] - first[2] < FLAT, sizes
    assert last[1] - first[1] < 4 * FLAT, sizes  # asyncio, threads and a log of its own


def test_kills_at_random_touch_nothing_and_leave_nothing(agent: Agent) -> None:
    before = warmed(agent)
    seed = int(os.environ.get("WHARF_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    dice = random.Random(seed)  # to be repeated, not to be secret
    print(f"WHARF_SEED={seed}")
    for number in range(RUNNING):
        agent.ask("run", f"r{number}")
    steady = agent.living()
    assert len(steady) == RUNNING
    slowest = 0.0
    for number in range(KILLS):
        began = time.monotonic()
        what = dice.choice(("agent", "supervisor", "both", "agent in an order", "supervisor in an order", "shim"))
        if "order" in what:
            agent.tell(dice.choice(("run", "remove")), f"x{number % 3}")
            time.sleep(dice.random() * 0.08)  # the moment of the kill is the point
        if what == "shim":
            os.kill(dice.choice(agent.shims()), signal.SIGKILL)
        elif what != "agent" and "agent in" not in what:
            os.kill(agent.supervisor(), signal.SIGKILL)
        if what not in ("supervisor", "shim"):
            agent.kill()
            agent.begin()
        until(lambda: len(agent.supervisors()) == 1, "a supervisor")
        until(lambda: steady <= agent.living(), f"all run on after the death of {what}")
        slowest = max(slowest, time.monotonic() - began)
    print(f"{KILLS} kills over {RUNNING} containers: every pid and start time as before; slowest recovery {slowest:.1f} s")
    for name in agent.ask("list"):
        agent.ask("remove", name)
    agent.renew()  # as they were when it was counted
    warmed(agent)
    nothing_more(agent, before)
