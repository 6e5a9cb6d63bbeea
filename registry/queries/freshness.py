"""Has anything been committed since? One question that costs two microseconds and needs no thread.

What was read under one version holds while the version is the same: SQLite's `PRAGMA data_version` changes for a connection
whenever any other connection, in this process or another, has committed. It is asked on a connection of its own that never
writes. Ask before reading: what is read afterwards is at least as new as the version.

PostgreSQL has no such answer without a round trip: None there, and everything is read.
"""

from __future__ import annotations

import sqlite3
from urllib.parse import quote

from django.db import connection


class _Watch:
    def __init__(self) -> None:
        self._name = ""
        self._cursor: sqlite3.Cursor | None = None
        self._opened = 0

    def version(self) -> tuple[int, int] | None:
        name = str(connection.settings_dict["NAME"])
        try:
            if self._cursor is None or name != self._name:
                self._open(name)
            assert self._cursor is not None  # noqa: S101  # _open made it
            ((number,),) = self._cursor.execute("PRAGMA data_version").fetchall()
        except sqlite3.OperationalError:  # locked for a moment, or not there yet: nothing is known
            return None
        return self._opened, number

    def _open(self, name: str) -> None:
        # timeout=0: the event loop never waits for a lock
        link = sqlite3.connect(f"file:{quote(name)}?mode=ro", uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        self._name, self._cursor = name, link.cursor()
        self._opened += 1  # two connections count from numbers of their own


_watch = _Watch() if connection.vendor == "sqlite" else None


def version() -> tuple[int, int] | None:
    """The version of what is committed, for the event loop's thread alone; None when everything has to be read."""
    return None if _watch is None else _watch.version()
