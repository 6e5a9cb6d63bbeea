"""Run one of the host's own programs and wait for it: what has no system call that we could make instead (zfs, LVM, mkfs)."""

from __future__ import annotations

import os
import subprocess
from typing import Final

DIRECTORIES: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_SECONDS: Final = 600
_REASON: Final = 500


class ProgramFailed(Exception):
    """A program is missing (status 127), ran too long (124) or ended with another status than 0; `reason` is what it said."""

    def __init__(self, program: str, status: int, reason: str) -> None:
        super().__init__(f"{program}: {reason}")
        self.program, self.status, self.reason = program, status, reason


def find(program: str) -> str | None:
    """The program's path in the directories of the system; the caller's PATH does not count."""
    candidates = (os.path.join(directory, program) for directory in DIRECTORIES)
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def run(program: str, *arguments: str) -> str:
    """Its standard output. Raises `ProgramFailed`."""
    path = find(program)
    if path is None:
        raise ProgramFailed(program, 127, "the program is not installed")
    try:
        done = subprocess.run(  # a fixed program of the system, no shell
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={"PATH": ":".join(DIRECTORIES), "LC_ALL": "C.UTF-8"},
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProgramFailed(program, 124, f"it did not end within {_SECONDS} s") from None
    if done.returncode:
        said = "; ".join((done.stderr.strip() or done.stdout.strip()).splitlines())[:_REASON]
        raise ProgramFailed(program, done.returncode, said or f"exit status {done.returncode}")
    return done.stdout
