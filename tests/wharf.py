"""`wharf` for tests: as a program, or its own main() in the calling process, which leaves out a start of Python."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from controlplane.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
Ran = tuple[int, str, str]  # exit code, output, errors
Environment = dict[str, str]


def as_a_program(arguments: list[str], environment: Environment) -> Ran:
    command = [sys.executable, "-m", "controlplane.cli.main", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def as_a_call(arguments: list[str], environment: Environment) -> Ran:
    """The program's own main() in this process: what is left out is a start of Python."""
    out, errors = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr(os, "environ", environment)
        patch.setattr(sys, "argv", ["wharf", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int), code
    return code, out.getvalue(), errors.getvalue()
