"""Boot the guest, run pytest in it with our arguments, report its counts and exit with its status."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.guest import kernel, machine

CLONE = Path(__file__).parents[2]
CACHE = (CLONE / "build/guest").resolve()  # the guest sees through no link of the host
SECONDS = int(os.environ.get("WHARF_GUEST_SECONDS") or 3600)
DEFAULT = ("tests/conformance/runtime",)
MODULES = ("virtio_blk", "ext4", "loop", "fuse")  # which nothing loads by itself: no udev runs
SLOWNESS = 6  # of an emulated processor, in the time limits of tests
DISK = "/mnt/disk"  # temporary files: a memory file system knows no shifted ids before Linux 6.3


def main(arguments: list[str]) -> int:
    try:
        chosen = kernel.fetch(CACHE)
    except RuntimeError as error:
        print(f"guest: {error}", file=sys.stderr)
        return 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="wharf-guest-") as made:
        shared = Path(made)
        (shared / "run.sh").write_text(_script(arguments or list(DEFAULT)))
        ended = machine.boot(chosen, shared, SECONDS)
        status = _status(shared / "status", ended)
        seconds = time.monotonic() - began
        print(f"guest: {_counts(shared / 'junit.xml')}, {seconds:.0f} s, Linux {chosen.modules.name}, cgroup v2 only")
    return status


def _script(arguments: list[str]) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "tests/guest/pytest.ini",
        "--rootdir",
        ".",
        "--junitxml",
        "/run/guest/junit.xml",
    ]
    return "\n".join(
        (
            "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONDONTWRITEBYTECODE=1",
            f"export TMPDIR={DISK} WHARF_TEST_SLOWNESS={os.environ.get('WHARF_TEST_SLOWNESS') or SLOWNESS}",
            *(f"modprobe {name} || exit 1" for name in MODULES),
            f"mkdir {DISK} && mount -t ext4 /dev/vda {DISK} && chmod 1777 {DISK} || exit 1",
            f"cd {shlex.quote(str(CLONE))} || exit 1",
            shlex.join([*command, *arguments]),
            "echo $? > /run/guest/status; sync",
            "",
        )
    )


def _status(file: Path, ended: int) -> int:
    """pytest's own, or 1 when the guest did not get that far."""
    if file.exists():
        return int(file.read_text())
    print(f"guest: the machine ended without a result (qemu or timeout: {ended})", file=sys.stderr)
    return 1


def _counts(report: Path) -> str:
    if not report.exists():
        return "no report"
    suite = next(ElementTree.parse(report).iter("testsuite")).attrib
    total, failed, skipped = int(suite["tests"]), int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    return f"{total - failed - skipped} passed, {failed} failed, {skipped} skipped"


sys.exit(main(sys.argv[1:]))
