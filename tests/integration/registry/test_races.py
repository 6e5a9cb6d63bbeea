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
PUSHERS, ROUNDS = 50, 3


def race(program: str, tmp_path: Path, database: str, *arguments: object) -> dict[str, int]:
    """Run a program of this directory on an empty database; gives the counts that it prints."""
    with postgresql() if database == "postgresql" else nullcontext("") as url:
        server = RegistryServer(tmp_path, database_url=url, settings={"WHARF_DATABASE_POOL": str(PUSHERS + 2)})
        try:
            done = subprocess.run(
                [sys.executable, "-m", f"tests.integration.registry.{program}", *map(str, arguments), str(tmp_path / "blobs")],
                cwd=ROOT,
                env=server.environment,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            server.close()
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return {word: int(count) for word, count in re.findall(r"(\w+) (\d+)", done.stdout)}


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_collector_against_pushers_and_deleters(tmp_path: Path, database: str) -> None:
    counts = race("race_collect", tmp_path, database, SECONDS)
    assert counts["pushed"] > 0
    assert counts["collected"] > 0


def test_of_fifty_first_pushes_of_an_immutable_tag_one_wins(tmp_path: Path) -> None:
    counts = race("race_immutable", tmp_path, "postgresql", PUSHERS, ROUNDS)
    assert counts == {"won": ROUNDS, "refused": (PUSHERS - 1) * ROUNDS}


def test_a_quota_holds_at_its_edge(tmp_path: Path) -> None:
    counts = race("race_policies", tmp_path, "postgresql")
    assert (counts["won"], counts["refused"]) == (1, 49)
    assert counts["used"] == counts["held"] == counts["limit"], "ten of fifty fitted, to the last byte"
