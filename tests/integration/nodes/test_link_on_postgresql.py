"""The link's sessions, the hostile node, the brake and leases of images once more, on a real PostgreSQL and a real Valkey."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers

ROOT = Path(__file__).parents[3]
FILES = ("test_link_sessions.py", "test_link_hostile.py", "test_link_brake.py", "test_sessions.py", "test_leases.py")


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.skipif("WHARF_DATABASE_URL" in os.environ, reason="this run is on a chosen database already")
def test_the_link_passes_on_postgresql_and_valkey(tmp_path: Path) -> None:
    with servers.postgresql() as database, servers.valkey() as redis:
        env = {**os.environ, "WHARF_DATABASE_URL": database, "WHARF_REDIS_URL": redis, "WHARF_HOME": str(tmp_path)}
        files = [f"tests/integration/nodes/{name}" for name in FILES]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *files]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
