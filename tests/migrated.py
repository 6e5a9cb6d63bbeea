"""A migrated SQLite database, made once a test process and copied: most servers of tests are about what comes after it.

That migrations run where nothing is yet is tested by the first starts (tests/integration/controlplane/test_first_start.py, every
`wharf up` of tests/e2e), and on PostgreSQL by each server there.
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

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def _template() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="wharf-migrated-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "DJANGO_"))},
        "WHARF_HOME": str(directory),
        "WHARF_REDIS_URL": "memory://",
    }
    command = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    found = [path.name for path in directory.glob("db.sqlite3*")]
    assert found == ["db.sqlite3"], f"a journal is left beside it: {found}"
    return directory / "db.sqlite3"


def migrated(target: Path) -> None:
    """Puts a migrated database at `target`, where none may be yet."""
    with _template().open("rb") as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy)
