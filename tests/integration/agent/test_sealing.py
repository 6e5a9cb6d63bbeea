"""What counts as a copy that nobody can write to: not the root of a machine, though it may be an overlay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.sys import sealing

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts")]
REPOSITORY = Path(__file__).parents[3]
LOOK = (
    "import os, sys; sys.path.insert(0, sys.argv[1]); from agent.sys import sealing;"
    "print(sealing.is_sealed(os.open(sys.argv[2], os.O_RDONLY)))"
)


@pytest.mark.parametrize("options", ["", ",ro,nosuid,nodev"])
def test_a_mounted_overlay_is_none(tmp_path: Path, options: str) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    script = (  # a lower layer on another file system, as that of a live system
        f"cd {tmp_path} && mount -t tmpfs tmpfs lower && cp /bin/true lower/program &&"
        f" mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work{options} overlay merged &&"
        ' exec "$@"'
    )
    words = [sys.executable, "-c", LOOK, str(REPOSITORY), f"{tmp_path}/merged/program"]
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_what_it_makes_is_one(tmp_path: Path) -> None:
    fd = sealing.sealed_executable("/bin/true", str(tmp_path), "test")
    try:
        assert sealing.is_sealed(fd)
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
    finally:
        os.close(fd)
