"""CVE-2019-5736: an image starts `/proc/self/exe`, so that the runtime's own program runs inside; it keeps that open, and
writes to it once nobody executes it.

The program attacked is a copy of the interpreter. The other half, opening /proc/<pid>/exe of an exec, is in CVE-2016-9962.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.runtime.defaults import default_config
from tests.conformance.runtime.conftest import PARENT, wait_for
from tests.conformance.runtime.cve import attacker
from tests.pace import patience

REPOSITORY = Path(__file__).parents[4]
CLI = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from agent.runtime.cli import entry"
NAIVE = "; entry._seal = lambda *_: None"
# the runtime's interpreter reads this as its script, inside; sh then holds the program as 9 and writes when it is free
EVIL = """#!/proc/self/exe
import os
os.dup2(os.open("/proc/self/exe", os.O_RDONLY), 9)
os.execv("/bin/sh", ["sh", "-c", "echo ready > /out/ready; n=0; while [ $n -lt 60 ]; do n=$((n+1));"
    " (echo owned > /proc/self/fd/9) 2>/dev/null && break; sleep 0.01; done; echo done > /out/done"])
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    copy = tmp_path / "python3"
    shutil.copy(os.path.realpath(sys.executable), copy)
    return copy


@pytest.mark.parametrize("sealed", [True, False])
def test_the_runtimes_program_stays_as_it_is(rootfs: Path, tmp_path: Path, program: Path, sealed: bool) -> None:
    (rootfs / "bin/evil").write_text(EVIL)
    (rootfs / "bin/evil").chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    config = default_config(["/bin/evil"])
    config["root"]["path"] = str(rootfs)
    config["linux"]["cgroupsPath"] = f"{PARENT}/cve-2019-5736"
    attacker.show_python(config)
    config["mounts"].append({"destination": "/out", "type": "bind", "source": str(out), "options": ["bind"]})
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = CLI + ("" if sealed else NAIVE) + "; entry.main()"

    def runtime(*words: str) -> None:
        done = subprocess.run(
            [str(program), "-I", "-S", "-c", start, "--root", str(tmp_path / "state"), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=patience(60),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    before = hashlib.sha256(program.read_bytes()).hexdigest()
    runtime("run", "--detach", "--bundle", str(tmp_path), "evil")
    try:
        wait_for((out / "ready").exists, "the attack")  # it really ran as a script of the runtime's program
        wait_for((out / "done").exists, "its end")
        unchanged = hashlib.sha256(program.read_bytes()).hexdigest() == before
    finally:
        shutil.copy(os.path.realpath(sys.executable), program)  # the naive one was overwritten, and has to clean up
        runtime("delete", "--force", "evil")
    assert unchanged is sealed
