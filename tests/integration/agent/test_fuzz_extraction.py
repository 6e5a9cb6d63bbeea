"""Any archive against the real extraction helper, as root: nothing outside the target changes, nothing but our refusals comes
back, nothing is left over; and what an honest archive becomes is what Python's tarfile makes of it.

WHARF_FUZZ=200 multiplies the examples.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import stat
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol.errors import WharfError
from agent.storage import devices, trees
from agent.storage.extract import Extracted, extract
from agent.storage.limits import Limits, Rights
from tests.integration.agent import layer_strategies as layers

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices, user namespaces")]

MORE = int(os.environ.get("WHARF_FUZZ", "1"))
LIMITS = Limits(max_bytes=8 << 20, max_entries=200, ratio_slack=1 << 20, seconds=60)
REFUSALS = ("layer_invalid", "layer_too_large")
Seen = dict[str, tuple[object, ...]]
UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def canary_of(root: Path) -> Seen:
    """With the time of the last change of anything about a file, links and attributes included."""
    found: Seen = {}
    for path in sorted([root, *root.rglob("*")]):
        info = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        found[str(path)] = (info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_ctime_ns, content)
    return found


def make_outside(root: Path) -> Path:
    (root / "dir").mkdir(parents=True)
    (root / "secret").write_text("untouched")
    (root / "dir/file").write_text("untouched")
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What the hostile names lead to from any target beside it."""
    root = make_outside(tmp_path / "outside")
    before = canary_of(root), canary_of(Path("/abs")) if os.path.lexists("/abs") else {}
    yield root
    assert (canary_of(root), canary_of(Path("/abs")) if os.path.lexists("/abs") else {}) == before


def belongings() -> tuple[int, int, bool]:
    """Descriptors, threads, and whether there is a child, dead or alive."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        child = True
    except ChildProcessError:
        child = False
    return len(os.listdir("/proc/self/fd")), threading.active_count(), child


def fill(target: Path) -> None:
    """What a lower layer may have left in a merged tree: links that lead out, and a device."""
    (target / "a/b").mkdir(parents=True)
    (target / "a/b/c").write_text("below")
    (target / "l").symlink_to(layers.OUTSIDE)
    (target / "d").symlink_to(layers.OUTSIDE + "/dir")
    os.mknod(target / "b", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def unpack(data: bytes, target: Path, rights: Rights, merged: bool) -> Extracted | None:
    """None for a refusal of ours; what else may happen is an error of the test."""
    try:
        found = extract(io.BytesIO(data), str(target), limits=LIMITS, rights=rights, merged=merged)
    except WharfError as error:
        assert error.code in REFUSALS, error.detail  # noqa: PT017  # the kind is what is asserted
        return None
    devices.make(str(target), found.devices)
    return found


def check_inside(target: Path, rights: Rights) -> None:
    """No privilege that the rights do not name."""
    for path in target.rglob("*"):
        info = path.lstat()
        whiteout = stat.S_ISCHR(info.st_mode) and info.st_rdev == 0
        if stat.S_ISBLK(info.st_mode) or (stat.S_ISCHR(info.st_mode) and not whiteout):
            assert rights.keep_devices or path.name == "b", path  # that of `fill`
        if stat.S_ISREG(info.st_mode):
            assert rights.keep_setuid or not info.st_mode & 0o6000, path
        names = set(trees.xattrs(str(path))) - set(trees.ACLS)
        assert not [name for name in names if not name.startswith("user.") or name.startswith("user.overlay.")], path


@settings(max_examples=40 * MORE, deadline=None, suppress_health_check=UNHURRIED)
@given(data=layers.archives(), rights=st.builds(Rights, st.booleans(), st.just(False), st.booleans()), merged=st.booleans())
def test_any_archive_stays_inside(tmp_path: Path, outside: Path, data: bytes, rights: Rights, merged: bool) -> None:
    target = tmp_path / "target"
    target.mkdir()
    if merged:
        fill(target)
    canary, held = canary_of(outside), belongings()
    try:
        unpack(data, target, rights, merged)
        check_inside(target, rights)
        assert canary_of(outside) == canary
        assert belongings() == held
    finally:
        trees.remove_path(str(target))


def naively(data: bytes, root: Path) -> None:
    """Everything, wherever it leads, by a process whose "/" is `root`."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # it would wait for ever to write into a fifo
        try:
            os.chroot(root)
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                tar.errorlevel = 0
                tar.extractall("/target", numeric_owner=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_such_archives_lead_out_of_a_naive_extractor(tmp_path: Path) -> None:
    """Or they would prove nothing: a file outside is changed, or added, or has a second name, within a few hundred."""

    def outcome(data: bytes) -> set[str]:
        root = Path(tempfile.mkdtemp(dir=tmp_path))
        try:
            (root / "target").mkdir()
            make_outside(root / "outside")
            naively(data, root)
            seen = root / "outside/secret"
            return {
                *(["changed"] if seen.is_file() and seen.read_bytes() != b"untouched" else []),
                *(["linked"] if seen.is_file() and seen.lstat().st_nlink > 1 else []),
                *(["added"] if len(list((root / "outside").rglob("*"))) > 3 else []),
            }
        finally:
            trees.remove_path(str(root))

    found: set[str] = set()

    @settings(max_examples=400, database=None, deadline=None, suppress_health_check=UNHURRIED)
    @given(data=layers.archives())
    def hunt(data: bytes) -> None:
        if not found:
            found.update(outcome(data))

    hunt()
    assert found


def view(root: Path) -> Seen:
    """What both extractions have to agree on, by path; hard links as the group of their names."""
    found: Seen = {}
    inodes: dict[int, list[str]] = {}
    root_fd = trees.open_directory(str(root))
    try:
        for path, name, dir_fd, info in trees.walk(root_fd):
            shown = os.fsdecode(path)
            what: object = ""
            if stat.S_ISREG(info.st_mode):
                what = hashlib.sha256((root / shown).read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                what = os.readlink(name, dir_fd=dir_fd)
            mode, when = oct(info.st_mode), int(info.st_mtime)
            if stat.S_ISLNK(info.st_mode):
                when = 0  # tarfile leaves it
            found[shown] = (mode, info.st_uid, info.st_gid, what)
            if not stat.S_ISDIR(info.st_mode):
                found[shown] += (when,)
                inodes.setdefault(info.st_ino, []).append(shown)
    finally:
        os.close(root_fd)
    for names in inodes.values():
        for name in names:
            found[name] += (sorted(names),)
    return found


def by_tarfile(data: bytes, target: Path) -> bool:
    """Whether tarfile accepted the archive, under the checks of its own filter "tar", which Debian 12's Python does not have."""
    before = os.umask(0o022)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.errorlevel = 1
            for member in tar:
                place = os.path.realpath(os.path.join(target, member.name))
                if member.name.startswith("/") or os.path.commonpath([place, target]) != str(target):
                    return False
                tar.extract(member, target, numeric_owner=True)
    except (tarfile.TarError, OSError, ValueError, KeyError):
        return False
    finally:
        os.umask(before)
    return True


def once(entries: list[layers.Member]) -> list[layers.Member]:
    """Names that both take, each once and none below a file: tarfile writes through what is there, we replace it."""
    kept: dict[str, layers.Member] = {}
    for info, data in entries:
        name = os.path.normpath(info.name)
        target = kept.get(info.linkname)
        if ".." in info.name or (info.issym() and not info.linkname) or (info.islnk() and (target is None or target[0].isdir())):
            continue  # refused by us
        if info.islnk() and target is not None and target[0].issym():
            continue  # a copy to tarfile, if the link leads nowhere
        under = [known for known, (other, _) in kept.items() if name.startswith(known + "/") and not other.isdir()]
        over = [known for known in kept if known.startswith(name + "/")]
        if name not in kept and not under and not (over and not info.isdir()):
            if target is not None and info.islnk():  # a hard link is its file; tarfile gives the file what the link says
                first = target[0]
                info.mode, info.uid, info.gid, info.mtime = first.mode, first.uid, first.gid, first.mtime
            kept[name] = (info, data)
    return list(kept.values())


def test_what_tarfile_accepts_too_becomes_the_same(tmp_path: Path, outside: Path) -> None:
    agreed = []

    @settings(max_examples=30 * MORE, deadline=None, suppress_health_check=UNHURRIED)
    @given(entries=layers.honest.map(once), form=layers.formats)
    def compare(entries: list[layers.Member], form: int) -> None:
        data = layers.write(entries, form)
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        ours.mkdir()
        theirs.mkdir()
        try:
            accepted = unpack(data, ours, Rights(keep_setuid=True), merged=False)
            if accepted is not None and by_tarfile(data, theirs):
                assert view(ours) == view(theirs)
                agreed.append(data)
        finally:
            trees.remove_path(str(ours))
            trees.remove_path(str(theirs))

    compare()
    assert len(agreed) > 10 * MORE, "hardly anything was compared"
