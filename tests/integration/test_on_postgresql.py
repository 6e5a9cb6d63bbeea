"""The ground's integration tests once more, on a real PostgreSQL and a real Valkey: the same code by settings alone.

Tests that start whole processes choose their own database and are left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers

ROOT = Path(__file__).parents[2]


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.skipif("WHARF_DATABASE_URL" in os.environ, reason="this run is on a chosen database already")
def test_the_suite_passes_on_postgresql_and_valkey(tmp_path):
    with servers.postgresql() as database, servers.valkey() as redis:
        env = {**os.environ, "WHARF_DATABASE_URL": database, "WHARF_REDIS_URL": redis, "WHARF_HOME": str(tmp_path)}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--no-header",
            "--ignore-glob=*/test_server_*",
            "--ignore-glob=*_processes.py",
            "--ignore-glob=*/test_first_start.py",
            "tests/integration/controlplane",
        ]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
