"""Real worker processes on real stores, killed at random: each (job, step) effect happens once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.integration.controlplane.stores import Valkey, valkey, wait_for
from tests.migrated import Databases, migrated

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(240),
    pytest.mark.skipif("WHARF_DATABASE_URL" in os.environ, reason="runs on databases of its own, whatever the suite runs on"),
]


class Cluster:
    """A driver process, a Valkey and any number of workers on one database."""

    def __init__(self, directory: Path, url: str, hints: Valkey) -> None:
        self.hints = hints
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.integration.controlplane.worker_settings",
            "WHARF_HOME": str(directory),
            "WHARF_DATABASE_URL": url,
            "WHARF_REDIS_URL": hints.url,
            "WHARF_LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
        }
        self.log = (directory / "workers.log").open("wb")
        self.workers: list[subprocess.Popen[bytes]] = []
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.controlplane.effects.drive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            text=True,
        )

    def ask(self, name: str, *positional: Any, **keywords: Any) -> Any:
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(json.dumps([name, positional, keywords]) + "\n")
        self.driver.stdin.flush()
        return json.loads(self.driver.stdout.readline())

    def worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "controlplane.celery", "worker", "--pool", "threads", "-c", "2"]
        flags = [
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "-l",
            "WARNING",
            "-n",
            f"w{len(self.workers)}@test",
        ]
        process = subprocess.Popen(
            [*command, *flags], env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.workers.append(process)
        return process

    def state(self, job_id: str) -> str:
        return str(self.ask("states")[job_id][0])

    def close(self) -> None:
        for process in self.workers:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.close()
        self.driver.wait(20)
        self.driver.stdout.close()
        self.log.close()


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    with servers.postgresql() as url:
        yield Databases(url)


@pytest.fixture(params=["sqlite", "postgres"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="wharf-jobs-"))
        stack.callback(shutil.rmtree, directory)
        if request.param == "postgres":
            url = request.getfixturevalue("databases").new()
        else:
            migrated(directory / "db.sqlite3")
            url = f"sqlite:///{directory}/db.sqlite3"
        made = Cluster(directory, url, stack.enter_context(valkey()))
        stack.callback(made.close)
        made.ask("migrate")
        yield made


def assert_effects_once(cluster: Cluster, steps: int, jobs: list[str]) -> None:
    counts = Counter(map(tuple, cluster.ask("effects")))
    assert set(counts.values()) == {1}
    assert {job for job, _ in counts} == set(jobs)
    assert len(counts) == steps * len(jobs)


def test_killed_workers_repeat_no_effect(cluster: Cluster) -> None:
    chance = random.Random(7)
    jobs = [cluster.ask("start", kind, steps=40) for kind in ["test.effects"] * 3 + ["test.heavy"]]
    for _ in range(2):
        cluster.worker()
    kills = 0

    def ended() -> bool:
        return all(state[0] == "done" for state in cluster.ask("states").values())

    def step() -> bool:
        nonlocal kills
        running = [process for process in cluster.workers if process.poll() is None]
        registered = set(cluster.ask("workers"))
        victims = [process for process in running if process.pid in registered]
        begun = sum(state[3] for state in cluster.ask("states").values())
        if victims and kills < 5 and begun > kills * 12:
            victim = chance.choice(victims)
            victim.kill()
            victim.wait()
            kills += 1
            cluster.worker()
            if kills == 3:
                cluster.hints.kill()
                cluster.hints.start()
        return ended()

    wait_for(step, "all jobs are done", 180)
    assert kills >= 3
    assert_effects_once(cluster, 40, jobs)
    assert any(state[2] > 1 for state in cluster.ask("states").values()), "no job was ever taken back"


def test_a_stopped_worker_is_fenced_out_when_it_wakes(cluster: Cluster) -> None:
    first = cluster.worker()
    job = cluster.ask("start", "test.effects", steps=60, pause=0.05)
    wait_for(lambda: cluster.ask("states")[job][3] > 5, "the job is under way")
    os.kill(first.pid, signal.SIGSTOP)
    while not cluster.ask("writable", job):  # stopped inside a transaction: its lock would stay, and this is no test of that
        os.kill(first.pid, signal.SIGCONT)
        cluster.ask("states")
        os.kill(first.pid, signal.SIGSTOP)
    cluster.worker()
    wait_for(lambda: cluster.ask("states")[job][2] == 2, "the job is taken over")
    os.kill(first.pid, signal.SIGCONT)
    wait_for(lambda: cluster.state(job) == "done", "the job is done")
    assert_effects_once(cluster, 60, [job])
    log = cluster.ask("log", job)
    assert log.count("step 59\n") == 1


def test_cancel_ends_the_process_group(cluster: Cluster) -> None:
    cluster.worker()
    job = cluster.ask("start", "test.heavy", steps=100000, pause=0.05, grandchild=True)
    wait_for(lambda: "grandchild" in cluster.ask("log", job), "the grandchild runs")
    pid = int(cluster.ask("log", job).split("grandchild ")[1].split()[0])
    assert Path(f"/proc/{pid}").exists()
    cluster.ask("cancel", job)
    wait_for(lambda: cluster.state(job) == "cancelled", "the job is cancelled")
    wait_for(lambda: not _alive(pid), "the grandchild is gone")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_worker_takes_its_process_groups_along(cluster: Cluster) -> None:
    worker = cluster.worker()
    job = cluster.ask("start", "test.heavy", steps=100000, pause=0.05, grandchild=True)
    wait_for(lambda: "grandchild" in cluster.ask("log", job), "the grandchild runs")
    pid = int(cluster.ask("log", job).split("grandchild ")[1].split()[0])
    worker.kill()
    worker.wait()
    wait_for(lambda: not _alive(pid), "the grandchild is gone")


def test_sigterm_gives_jobs_back_without_an_attempt(cluster: Cluster) -> None:
    worker = cluster.worker()
    jobs = [cluster.ask("start", kind, steps=100000, pause=0.05) for kind in ("test.effects", "test.heavy")]
    wait_for(lambda: all(state[3] > 2 for state in cluster.ask("states").values()), "both are under way")
    worker.terminate()
    worker.wait(20)
    for job in jobs:
        assert cluster.ask("states")[job][:2] == ["queued", 0]
    assert cluster.ask("workers") == []


def test_without_any_doorbell_jobs_still_run(cluster: Cluster) -> None:
    cluster.worker()
    wait_for(lambda: cluster.ask("workers"), "the worker is there")
    cluster.hints.kill()
    job = cluster.ask("start", "test.effects", steps=3)
    wait_for(lambda: cluster.state(job) == "done", "the worker looked by itself")
