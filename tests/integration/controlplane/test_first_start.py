"""The first start in an empty home, as its own process: what it makes, that it prints the password once, what stops it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def manage(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "WHARF_HOME": str(home),
        "WHARF_REDIS_URL": "memory://",
        "WHARF_LOG_LEVEL": "WARNING",
        **environment,
    }
    command = [sys.executable, str(ROOT / "manage.py"), *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def test_first_start_makes_everything_once(tmp_path):
    home = tmp_path / "home"
    first = manage(home, "first_start", "--json")
    assert first.returncode == 0, first.stderr
    body = json.loads(first.stdout)
    assert (body["admin"], len(body["password"]) >= 20) == ("admin", True)
    for path in home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    again = json.loads(manage(home, "first_start", "--json").stdout)
    assert (again["password"], again["ca_digest"]) == (None, body["ca_digest"])
    with sqlite3.connect(home / "db.sqlite3") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert body["password"] not in "".join(database.iterdump())
    database.close()
    assert manage(home, "verify_audit").returncode == 0
    with sqlite3.connect(home / "db.sqlite3") as database:
        database.execute("UPDATE events_event SET actor_name = 'nobody' WHERE id = 2")
    database.close()
    found = manage(home, "verify_audit")
    assert found.returncode == 1
    assert "changed    2" in found.stdout


def test_known_short_or_open_secrets_refuse_to_start(tmp_path):
    for number, (text, mode) in enumerate(
        [("changeme", 0o600), ("a" * 64, 0o600), ("django-insecure-" + "abcdefghijklmnop" * 3, 0o600)]
    ):
        home = tmp_path / str(number)
        home.mkdir()
        (home / "secret-key").write_text(text)
        (home / "secret-key").chmod(mode)
        refused = manage(home, "first_start")
        assert refused.returncode != 0
        assert "unsafe" in refused.stderr.lower()
        assert not (home / "db.sqlite3").exists()


def test_importing_the_settings_touches_no_file(tmp_path):
    home = tmp_path / "home"
    env = {"PATH": os.environ["PATH"], "WHARF_HOME": str(home)}
    code = "import controlplane.settings as s; print(s.CHANNEL_LAYERS['default']['CONFIG']['hosts'][0]['socket_timeout'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), home.exists()) == ("None", False)
