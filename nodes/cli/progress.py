"""A bar for bytes that travel, on stderr; nothing when stderr is no terminal."""

from __future__ import annotations

import sys
from typing import Any


class Bar:
    """`with Bar("Pushing web:1", total) as bar: bar.advance(4096)`."""

    def __init__(self, text: str, total: int, *, quiet: bool = False) -> None:
        self._progress: Any = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(text, total=total)

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, count: int) -> None:
        """So many bytes more; fewer when `count` is negative."""
        if self._progress is not None:
            self._progress.advance(self._task, count)
