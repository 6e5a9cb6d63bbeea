"""Labels of security modules: written to a procfs only, and believed only when they are there afterwards (CVE-2019-16884)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.runtime import labels
from agent.runtime.labels import Labels
from agent.sys import mountapi

FILES = ("thread-self/attr/apparmor/exec", "thread-self/attr/exec")


@pytest.fixture
def sham(tmp_path: Path) -> int:
    """A directory that looks like a procfs, as a volume over /proc would."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("asked", [Labels(apparmor="strict"), Labels(selinux="u:r:t:s0")])
@pytest.mark.parametrize("naive", [False, True])
def test_a_label_goes_to_procfs_only(sham: int, asked: Labels, monkeypatch: pytest.MonkeyPatch, naive: bool) -> None:
    if naive:
        monkeypatch.setattr(mountapi, "filesystem_magic", lambda _: mountapi.PROC_SUPER_MAGIC)
        ((fd, _),) = labels.attributes(sham, asked)
        os.close(fd)
        return
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="not a file of procfs"):
        labels.attributes(sham, asked)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("text", "held", "believed"),
    [
        (b"exec strict", b"strict (enforce)\n", True),
        (b"exec strict", b"strict", True),
        (b"u:r:t:s0", b"u:r:t:s0\0", True),
        (b"exec strict", b"", False),
        (b"exec strict", b"unconfined\n", False),
        (b"exec strict", b"strict2 (enforce)\n", False),
        (b"u:r:t:s0", b"u:r:t:s0:c1\0", False),
    ],
)
def test_a_label_is_read_back(monkeypatch: pytest.MonkeyPatch, text: bytes, held: bytes, believed: bool) -> None:
    """/dev/null takes everything; what it holds is what the kernel would show."""
    monkeypatch.setattr(os, "pread", lambda *_: held)
    fd = os.open("/dev/null", os.O_RDWR)
    if believed:
        labels.apply([(fd, text)])
        return
    with pytest.raises(OSError, match="is there"):
        labels.apply([(fd, text)])
    os.close(fd)


def test_a_file_that_swallows_the_label_is_found_out() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(OSError, match="was written, but b'' is there"):
        labels.apply([(fd, b"exec strict")])
    os.close(fd)
