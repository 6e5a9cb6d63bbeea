"""Migrated databases, made once and copied: most servers of tests are about what comes after it.

That migrations run where nothing is yet is tested by the first starts (tests/integration/controlplane/test_first_start.py, every
`wharf up` of tests/e2e), and on PostgreSQL by the servers of the registry's tests.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

ROOT = Path(__file__).resolve().parents[1]


def _migrate(home: Path, url: str) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "DJANGO_"))},
        "WHARF_HOME": str(home),
        "WHARF_REDIS_URL": "memory://",
        "WHARF_DATABASE_URL": url,
    }
    command = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


@functools.cache
def _template() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="wharf-migrated-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    _migrate(directory, f"sqlite:///{directory}/db.sqlite3")
    found = [path.name for path in directory.glob("db.sqlite3*")]
    assert found == ["db.sqlite3"], f"a journal is left beside it: {found}"
    return directory / "db.sqlite3"


def migrated(target: Path) -> None:
    """Puts a migrated SQLite database at `target`, where none may be yet."""
    with _template().open("rb") as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy)


class Databases:
    """Migrated databases of one PostgreSQL, whose URL is given."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._count = 0
        first = self._create("template1")
        with tempfile.TemporaryDirectory(prefix="wharf-migrated-") as home:
            _migrate(Path(home), self._named(first))
        self._first = first

    def new(self) -> str:
        """The URL of one more."""
        return self._named(self._create(self._first))

    def _create(self, template: str) -> str:
        self._count += 1
        name = f"migrated{self._count}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _named(self, name: str) -> str:
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()
