"""`python -m controlplane.server` as a process: a prepared home, the API port, SIGTERM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.controlplane.stores import valkey, wait_for

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif("WHARF_DATABASE_URL" in os.environ, reason="has a home of its own, whatever the suite runs on")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    home = tempfile.mkdtemp(prefix="wharf-web-")
    with valkey() as hints:
        made = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "controlplane.settings",
            "WHARF_HOME": home,
            "WHARF_REDIS_URL": hints.url,
            "WHARF_ADDRESS": "127.0.0.1",
            "WHARF_PORT": str(free_port()),
            "WHARF_NODE_PORT": str(free_port()),
            "WHARF_PLAIN_PORT": str(free_port()),
            "PYTHONPATH": str(ROOT),
        }
        made.pop("WHARF_DATABASE_URL", None)
        out = subprocess.run(
            [sys.executable, "manage.py", "first_start", "--json"], env=made, cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        made["TEST_ROOTS"] = json.loads(out.stdout)["api"]["roots"]
        yield made
    shutil.rmtree(home)


@pytest.fixture
def web(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "controlplane.server"], env=environment, cwd=ROOT)
    try:
        wait_for(lambda: get(environment, "/healthz") == 200 or process.poll() is not None, "the web process is healthy")
        yield process
    finally:
        process.kill()
        process.wait()


def get(environment: dict[str, str], path: str) -> int:
    context = ssl.create_default_context(cafile=environment["TEST_ROOTS"])
    try:
        return httpx.get(f"https://127.0.0.1:{environment['WHARF_PORT']}{path}", verify=context, timeout=20).status_code
    except httpx.TransportError:
        return 0


def test_the_api_answers_under_the_clusters_root(web: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    assert get(environment, "/api/v1/health") == 200
    assert get(environment, "/api/v1/jobs") == 401
    assert httpx.get(f"http://127.0.0.1:{environment['WHARF_PLAIN_PORT']}/healthz").text == "ok\n"


def test_sigterm_is_a_normal_stop(web: subprocess.Popen[bytes]) -> None:
    web.send_signal(signal.SIGTERM)
    assert web.wait(20) == 0


def test_a_taken_port_is_said(web: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "controlplane.server"], env=environment, cwd=ROOT, check=False, stderr=subprocess.PIPE, timeout=60
    )
    assert second.returncode == 1
    assert b"ddress already in use" in second.stderr
