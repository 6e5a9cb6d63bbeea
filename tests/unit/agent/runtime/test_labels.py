"""Labels of security modules: written to a procfs only, and believed only when they are there afterwards (CVE-2019-16884)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent.runtime import labels
from agent.runtime.errors import InvalidConfig
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


PROFILES = "docker-default (enforce)\n/usr/bin/man (one) (complain)\nnvidia_modprobe//kmod (enforce)\n"


@pytest.mark.parametrize(
    ("profile", "loaded"),
    [
        ("docker-default", True),
        ("/usr/bin/man (one)", True),
        ("nvidia_modprobe//kmod", True),
        ("docker", False),
        ("docker-default (enforce)", False),
        # a state, a stack, another namespace: the list says nothing of those
        ("unconfined", True),
        ("docker-default//&absent", True),
        (":space:absent", True),
        ("&absent", True),
    ],
)
def test_a_profile_is_one_of_those_loaded(tmp_path: Path, profile: str, loaded: bool) -> None:
    (tmp_path / "profiles").write_text(PROFILES)
    assert labels.is_loaded(profile, str(tmp_path / "profiles")) is loaded
    assert labels.is_loaded(profile, str(tmp_path / "absent"))


@pytest.mark.parametrize(("runs", "why"), [(False, "does not run AppArmor"), (True, "apparmor_parser")])
def test_a_profile_that_cannot_be_is_told_at_create(monkeypatch: pytest.MonkeyPatch, runs: bool, why: str) -> None:
    monkeypatch.setattr(labels, "apparmor_runs", lambda: runs)
    monkeypatch.setattr(labels, "is_loaded", lambda _: False)
    with pytest.raises(InvalidConfig, match=f"apparmorProfile is 'strict'.*{why}"):
        labels.of_process({"apparmorProfile": "strict"})


@pytest.mark.parametrize(
    ("filesystems", "why"), [("nodev\tproc\n\text4\n", "not run SELinux"), ("nodev\tselinuxfs\n", "mount selinuxfs")]
)
def test_selinux_without_its_file_system_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filesystems: str, why: str
) -> None:
    listed = tmp_path / "filesystems"
    listed.write_text(filesystems)
    hidden = labels.selinux_is_hidden(str(listed))
    monkeypatch.setattr(labels, "selinux_runs", lambda: False)
    monkeypatch.setattr(labels, "selinux_is_hidden", lambda: hidden)
    with pytest.raises(InvalidConfig, match=f"selinuxLabel is 'u:r:t:s0'.*{why}"):
        labels.of_process({"selinuxLabel": "u:r:t:s0"})


@pytest.mark.parametrize(
    ("text", "number", "why"),
    [
        (b"exec strict", errno.ENOENT, "no profile 'strict' is loaded"),
        (b"u:r:t:s0", errno.EINVAL, "knows no context 'u:r:t:s0'"),
        (b"exec strict", errno.EACCES, "'strict' may not be taken: Permission denied"),
    ],
)
def test_what_the_kernel_refuses_is_told_in_words(monkeypatch: pytest.MonkeyPatch, text: bytes, number: int, why: str) -> None:
    def write(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match=why) as caught:
        labels.apply([(0, text)])
    assert caught.value.errno == number
