"""Runs programs on a server's database and store, each in a fork of a process that has set Django up and opened nothing.

    python -m tests.integration.registry.beside

A line in is a program as a JSON string, a line out [exit code, what it printed, its errors].
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


class Beside:
    """That process, seen by the tests. `environment` is its own for life."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        command = [sys.executable, "-m", "tests.integration.registry.beside"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, program: str) -> str:
        """What the program prints; fails with its errors."""
        self.process.stdin.write(json.dumps(program) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"it died of {program}"
        code, output, errors = json.loads(line)
        assert code == 0, errors
        return str(output)

    def close(self) -> None:
        self.process.stdin.close()  # its loop ends
        self.process.wait(30)
        self.process.stdout.close()


def run(program: str) -> list[object]:
    output, errors = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            exec(compile(program, "program", "exec"), {"__name__": "__main__"})  # a test's own words
        except BaseException:  # noqa: BLE001  # told to the test
            traceback.print_exc()
            code = 1
    return [code, output.getvalue(), errors.getvalue()]


def main() -> None:
    import django

    django.setup()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.write(1, json.dumps(run(json.loads(line))).encode() + b"\n")
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
