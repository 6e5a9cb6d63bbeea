"""Races on both databases: PostgreSQL in READ COMMITTED is where a look before a lock loses blobs."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.integration.registry.server import ROOT, RegistryServer
from tests.servers import postgresql

SECONDS = 8


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_collector_against_pushers_and_deleters(tmp_path: Path, database: str) -> None:
    with postgresql() if database == "postgresql" else nullcontext("") as url:
        server = RegistryServer(tmp_path, database_url=url)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.integration.registry.race_collect", str(SECONDS), str(tmp_path / "blobs")],
                cwd=ROOT,
                env=server.environment,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            server.close()
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    counts = dict(re.findall(r"(\w+) (\d+)", done.stdout))
    assert int(counts["pushed"]) > 0, done.stdout
    assert int(counts["collected"]) > 0, done.stdout


def test_one_pusher_of_a_new_immutable_tag_wins_and_a_quota_holds_at_its_edge(tmp_path: Path) -> None:
    with postgresql() as url:
        server = RegistryServer(tmp_path, database_url=url)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.integration.registry.race_policies", str(tmp_path / "blobs")],
                cwd=ROOT,
                env=server.environment,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            server.close()
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    counts = {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", done.stdout)}
    assert (counts["won"], counts["refused"]) == (1, 49)
    assert counts["used"] == counts["held"] == counts["limit"], "ten of fifty fitted, to the last byte"
