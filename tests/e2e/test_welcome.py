"""The first service: made once, served from a container, gone for good when it is removed; its failure stops nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_launcher import Up, wait_for, wharf
from tests.nodes import isolate

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a local node"),
]


@pytest.fixture
def up() -> Iterator[Up]:
    isolate()
    home = Path(tempfile.mkdtemp(prefix="wharf-up-"))
    made = Up(home, agent=True)
    made.environment["WHARF_ADDRESS"] = "0.0.0.0"
    del made.environment["WELCOME"]
    yield made
    made.call("down")
    made.close()
    home.with_suffix(".json").unlink(missing_ok=True)
    shutil.rmtree(home)


def told(up: Up, mark: str) -> str:
    """The last line that the launcher said with `mark` in it."""
    wait_for(lambda: mark in up.said() or up.ended(), mark, 120)
    assert not up.ended(), up.said()
    return [line for line in up.said().splitlines() if mark in line][-1]


def restart(up: Up) -> None:
    assert up.process is not None
    up.process.send_signal(signal.SIGINT)
    up.process.wait(60)
    up.out.seek(0)
    up.out.truncate()
    up.start()


def page(line: str) -> httpx.Response:
    found = re.search(r"http://[^/]+:(\d+)/", line)
    assert found is not None, line
    return httpx.get(f"http://127.0.0.1:{found[1]}/", timeout=10)


def test_a_newcomer_is_welcomed_once(up: Up) -> None:
    up.started()
    password = up.said().split("admin / ")[1].split()[0]
    answer = page(told(up, "Welcome"))
    assert answer.status_code == 200
    hostname = os.uname().nodename
    for text in ("Welcome aboard", f"<dd>{hostname}</dd>".replace(".", "&#46;").replace("-", "&#45;"), "<b>welcome</b>"):
        assert text in answer.text, answer.text
    assert "$" not in answer.text, "every variable is filled"
    server = f"https://127.0.0.1:{up.environment['WHARF_PORT']}"
    assert wharf(up, "login", server, "-u", "admin", "--password-stdin", stdin=f"{password}\n").returncode == 0
    restart(up)
    assert page(told(up, "Welcome")).status_code == 200, "told again, not made again"
    assert wharf(up, "service", "ls").stdout.count("library/welcome:1") == 1
    assert wharf(up, "service", "rm", "welcome").returncode == 0
    wait_for(lambda: wharf(up, "service", "inspect", "welcome").returncode == 3, "it is removed", 60)
    restart(up)
    told(up, "Console")
    wait_for(lambda: up.healthy() and not helpers(up), "the helper has ended", 60)
    assert "elcome" not in up.said(), "whoever removed it does not get it again"
    assert wharf(up, "service", "ls", "--json").stdout.strip() == "[]"


def helpers(up: Up) -> list[str]:
    """Processes of the launcher that look after the first service."""
    assert up.process is not None
    children = Path(f"/proc/{up.process.pid}/task/{up.process.pid}/children").read_text().split()
    return [pid for pid in children if b"launcher.welcome" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return b""


def test_its_failure_is_told_and_stops_nothing(up: Up) -> None:
    nowhere = up.home / "bin"
    nowhere.mkdir()
    (nowhere / "busybox").write_text("#!/bin/sh\necho '/ld-linux needs libraries'\n")
    (nowhere / "busybox").chmod(0o755)
    nowhere.chmod(0o755)
    up.environment["PATH"] = f"{nowhere}:{up.environment['PATH']}"
    up.started()
    assert "apt-get install busybox-static" in told(up, "welcome does not run")
    assert up.healthy()
