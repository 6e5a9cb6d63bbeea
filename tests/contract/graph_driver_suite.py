"""The suite of the graph driver seam. A driver's test class names its driver and inherits all of this."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import struct
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from agent.storage import choose, trees
from agent.storage.driver import GraphDriver
from agent.storage.errors import DigestMismatch, LayerInUse, LayerInvalid, LayerUnknown
from agent.storage.limits import Rights
from agent.storage.table import chain_id
from tests.contract.archives import archive, device, entry, fifo, folder, hardlink, symlink
from tests.contract.mounting import mounted


def signature(root: str) -> dict[str, tuple[object, ...]]:
    """Everything a container can see of a tree, by path; hard links as the group of their names."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, list[str]] = {}
    root_fd = trees.open_directory(root)
    try:
        for path, name, dir_fd, info in trees.walk(root_fd):
            shown = os.fsdecode(path)
            content: object = b""
            if stat.S_ISREG(info.st_mode):
                with open(os.open(name, os.O_RDONLY, dir_fd=dir_fd), "rb") as file:
                    data = file.read()
                content = data if len(data) < 100 else (len(data), hashlib.sha256(data).hexdigest())
                inodes.setdefault(info.st_ino, []).append(shown)
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(name, dir_fd=dir_fd)
            elif not stat.S_ISDIR(info.st_mode):
                content = info.st_rdev
                inodes.setdefault(info.st_ino, []).append(shown)
            kept = trees.xattrs(trees.fd_path(dir_fd, name)).items()
            attributes = {key: value for key, value in kept if key.startswith("user.") or key in trees.ACLS}
            when = 0 if stat.S_ISDIR(info.st_mode) else info.st_mtime_ns
            found[shown] = (oct(info.st_mode), info.st_uid, info.st_gid, when, content, tuple(sorted(attributes.items())))
    finally:
        os.close(root_fd)
    for names in inodes.values():
        for name in names:
            found[name] += (tuple(sorted(names)),)
    return found


def access_list(uid: int, permissions: int) -> bytes:
    """What setfacl -m u:UID:PERMISSIONS makes of mode 0640 (linux/posix_acl_xattr.h)."""
    entries = ((0x01, 6, 0), (0x02, permissions, uid), (0x04, 4, 0), (0x10, 7, 0), (0x20, 0, 0))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def differences(ours: dict[str, tuple[object, ...]], theirs: dict[str, tuple[object, ...]]) -> dict[str, object]:
    """What two signatures say of the paths in which they differ."""
    return {path: pair for path in ours | theirs if len(set(pair := (ours.get(path), theirs.get(path)))) > 1}


BASE = archive(
    folder("./", mode=0o751),
    folder("etc", mode=0o750, uid=7, gid=8),
    entry("etc/passwd", b"root:x:0:0\n"),
    entry("etc/gone", b"soon hidden"),
    folder("opt"),
    folder("opt/old"),
    entry("opt/old/a", b"a"),
    entry("opt/old/b", b"b"),
    entry("bin/tool", b"#!/bin/sh\n", mode=0o4755, uid=3, pax={"SCHILY.xattr.user.note": "kept"}),
    hardlink("bin/alias", "bin/tool"),
    symlink("lib", "usr/lib", uid=5),
    fifo("pipe", mode=0o600),
    device("null", 1, 3, mode=0o666),
    hardlink("void", "null"),
    device("disk", 8, 1, kind=tarfile.BLKTYPE, uid=6, gid=6),
    entry("same", b"same", mtime=1_600_000_000.25),
)
SECOND = archive(
    entry("etc/.wh.gone"),
    folder("opt/old"),
    entry("opt/old/.wh..wh..opq"),
    entry("opt/old/c", b"c"),
    entry("etc/added", b"new"),  # its directory is only implied: owner 7:8 and mode 0750 have to stay
    entry("lib/x", b"a directory now"),
    entry("disk", b"a file now"),
    device("pipe", 5, 0),
)
THIRD = archive(
    entry(".wh.opt"),
    folder("opt"),
    entry("opt/fresh", b"fresh"),
    entry("etc", b"a file now"),
    entry("twice", b"first"),
    entry("twice", b"second"),
)

KEPT = Rights(keep_setuid=True, keep_devices=True)
STACKS = ((BASE,), (BASE, SECOND), (BASE, SECOND, THIRD), (BASE, archive(entry(".wh..wh..opq"), entry("etc/only", b"1"))))
Signatures = dict[tuple[bytes, ...], dict[str, tuple[object, ...]]]


def stack(driver: GraphDriver, *archives: bytes) -> list[str]:
    """Apply archives as one chain; topmost first. Layers that are there already cost nothing."""
    chain: list[str] = []
    for data in archives:
        parent = chain[0] if chain else None
        expected = chain_id(parent, f"sha256:{hashlib.sha256(data).hexdigest()}")
        chain.insert(0, driver.apply(expected, parent, io.BytesIO(data)).chain_id)
    return chain


class GraphDriverSuite:
    driver_name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def tmp_path(self, ext4_disk: Path) -> Path:
        """Everything on a disk of its own: `syncfs` waits for nobody else, and overlays lie on ext4 wherever the tests run."""
        return Path(tempfile.mkdtemp(dir=ext4_disk))

    def open(self, data_root: Path) -> GraphDriver:
        return choose(str(data_root), self.driver_name, rights=KEPT, options=self.options)

    @pytest.fixture
    def driver(self, tmp_path: Path) -> GraphDriver:
        return self.open(tmp_path / "data")

    @pytest.fixture
    def target(self, tmp_path: Path) -> str:
        return str(tmp_path / "target")

    def test_apply_reports_digests_and_sizes(self, driver: GraphDriver) -> None:
        packed = gzip.compress(BASE)
        diff_id = f"sha256:{hashlib.sha256(BASE).hexdigest()}"
        result = driver.apply(diff_id, None, io.BytesIO(packed), compressed=f"sha256:{hashlib.sha256(packed).hexdigest()}")
        assert (result.chain_id, result.diff_id, result.tar_size) == (diff_id, diff_id, len(BASE))
        assert result.size == sum(len(data) for data in (b"root:x:0:0\n", b"soon hidden", b"a", b"b", b"#!/bin/sh\n", b"same"))

    def test_apply_of_a_known_layer_reads_nothing(self, driver: GraphDriver) -> None:
        first = driver.apply(None, None, io.BytesIO(BASE))
        assert driver.apply(first.chain_id, None, io.BytesIO(b"not even a tar")) == first

    def test_apply_takes_a_pipe(self, driver: GraphDriver) -> None:
        read, write = os.pipe()
        writer = threading.Thread(target=lambda: [os.write(write, BASE), os.close(write)])
        writer.start()
        with open(read, "rb") as source:
            assert driver.apply(None, None, source).tar_size == len(BASE)
        writer.join()

    @pytest.mark.parametrize("which", ["diff_id", "compressed"])
    def test_wrong_digests_leave_nothing(self, driver: GraphDriver, which: str) -> None:
        wrong = "sha256:" + "0" * 64
        with pytest.raises(DigestMismatch):
            driver.apply(
                wrong if which == "diff_id" else None, None, io.BytesIO(BASE), compressed=wrong if which == "compressed" else None
            )
        self.assert_empty(driver)

    def test_broken_archive_leaves_nothing(self, driver: GraphDriver) -> None:
        with pytest.raises(LayerInvalid):
            driver.apply(None, None, io.BytesIO(BASE[:3000]))
        self.assert_empty(driver)

    @staticmethod
    def assert_empty(driver: GraphDriver) -> None:
        assert driver.table.layers() == []
        root = driver.root  # type: ignore[attr-defined]
        assert os.listdir(f"{root}/tmp") == [] == os.listdir(f"{root}/layers")

    def test_unknown_parent(self, driver: GraphDriver) -> None:
        with pytest.raises(LayerUnknown):
            driver.apply(None, "sha256:" + "1" * 64, io.BytesIO(BASE))

    def test_view_shows_the_merged_layers(self, driver: GraphDriver, target: str) -> None:
        chain = stack(driver, BASE, SECOND)
        with mounted(driver.view(chain), target):
            assert sorted(os.listdir(f"{target}/etc")) == ["added", "passwd"]
            assert os.listdir(f"{target}/opt/old") == ["c"]
            info = os.stat(f"{target}/etc")
            assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (7, 8, 0o750)
            assert stat.S_IMODE(os.stat(target).st_mode) == 0o751
            assert os.listdir(f"{target}/lib") == ["x"]
            assert os.stat(f"{target}/bin/tool").st_ino == os.stat(f"{target}/bin/alias").st_ino
            assert os.stat(f"{target}/bin/tool").st_mode & 0o7777 == 0o4755
            assert os.getxattr(f"{target}/bin/tool", "user.note") == b"kept"
            assert os.stat(f"{target}/same").st_mtime_ns == 1_600_000_000_250_000_000
            with pytest.raises(OSError, match="Read-only"):
                Path(target, "new").write_text("")

    def test_view_of_nothing(self, driver: GraphDriver, target: str) -> None:
        with mounted(driver.view([]), target):
            assert os.listdir(target) == []

    def test_results_equal_vfs(self, driver: GraphDriver, target: str, yardstick: Signatures) -> None:
        for layers in STACKS:
            with mounted(driver.view(stack(driver, *layers)), target):
                ours = signature(target)
            assert differences(ours, yardstick[layers]) == {}

    def test_container_writes_stay_its_own(self, driver: GraphDriver, target: str) -> None:
        chain = stack(driver, BASE)
        with mounted(driver.prepare("one", chain), target):
            Path(target, "etc/passwd").write_text("changed")
        with mounted(driver.prepare("two", chain), target):
            assert Path(target, "etc/passwd").read_text() == "root:x:0:0\n"
        with mounted(driver.prepare("one", chain), target):  # idempotent: the same root again
            assert Path(target, "etc/passwd").read_text() == "changed"
            assert stat.S_IMODE(os.stat(target).st_mode) == 0o751
        assert driver.usage("one") > 0

    def test_prepare_on_nothing(self, driver: GraphDriver, target: str) -> None:
        with mounted(driver.prepare("scratch", []), target):
            Path(target, "x").write_text("x")
        assert [(change.kind, change.path) for change in driver.changes("scratch")] == [("A", "/x")]

    def test_prepare_refuses_another_chain(self, driver: GraphDriver) -> None:
        chain = stack(driver, BASE, SECOND)
        driver.prepare("one", chain)
        with pytest.raises(LayerInUse):
            driver.prepare("one", chain[1:])

    @pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a" * 129])
    def test_container_ids_cannot_be_paths(self, driver: GraphDriver, name: str) -> None:
        with pytest.raises(LayerInvalid):
            driver.prepare(name, [])

    def test_changes_and_diff_make_the_same_layer(self, driver: GraphDriver, target: str) -> None:
        chain = stack(driver, BASE)
        with mounted(driver.prepare("one", chain), target):
            os.unlink(f"{target}/etc/gone")
            Path(target, "etc/passwd").write_text("changed")
            os.mkdir(f"{target}/new")
            Path(target, "new/file").write_bytes(b"x" * 5000)
            os.setxattr(f"{target}/new/file", "user.k", b"\0\xff")
            os.link(f"{target}/new/file", f"{target}/new/second")
            os.symlink("file", f"{target}/new/link")
            os.mkfifo(f"{target}/new/pipe")
            with open(f"{target}/new/sparse", "wb") as file:
                file.truncate(4 << 20)
                file.seek(1 << 20)
                file.write(b"data")
            for name in ("a", "b"):
                os.unlink(f"{target}/opt/old/{name}")
            os.rmdir(f"{target}/opt/old")
            os.mkdir(f"{target}/opt/old")
            expected = signature(target)
        changes = {change.path: change.kind for change in driver.changes("one")}
        assert changes["/etc/gone"] == "D"
        assert changes["/etc/passwd"] == "C"
        assert changes["/etc"] == "C"
        assert changes["/new/file"] == "A"
        layer = b"".join(driver.diff("one"))
        assert len(layer) < 1 << 20  # the hole was not written out
        top = driver.apply(None, chain[0], io.BytesIO(layer))
        with mounted(driver.view([top.chain_id, *chain]), target):
            assert differences(signature(target), expected) == {}
            assert os.stat(f"{target}/new/sparse").st_blocks < 4096

    def test_access_control_lists_are_kept_and_taken_back(self, driver: GraphDriver, target: str) -> None:
        """acl(5): a change of one is a change, a directory's default is no list of what its layer holds, and one may go again."""
        chain = stack(driver, BASE)
        with mounted(driver.prepare("one", chain), target):
            os.setxattr(f"{target}/etc/passwd", trees.ACCESS_ACL, access_list(4321, 6))
            os.mkdir(f"{target}/new")
            for name in ("before", "after"):
                Path(target, "new", name).write_text("")
                os.setxattr(f"{target}/new", trees.DEFAULT_ACL, access_list(1234, 7))
            os.setxattr(f"{target}/new", trees.ACCESS_ACL, access_list(99, 5))
            os.mkdir(f"{target}/new/below")  # is given the list of "new"
            expected = signature(target)
        assert {"/etc/passwd", "/new", "/new/after"} <= {change.path for change in driver.changes("one")}
        top = driver.apply(None, chain[0], io.BytesIO(b"".join(driver.diff("one"))))
        chain = [top.chain_id, *chain]
        with mounted(driver.prepare("two", chain), target):
            assert differences(signature(target), expected) == {}
            assert trees.ACCESS_ACL not in os.listxattr(f"{target}/new/before")
            assert trees.ACCESS_ACL in os.listxattr(f"{target}/new/after")
            os.removexattr(f"{target}/new", trees.DEFAULT_ACL)
            os.removexattr(f"{target}/etc/passwd", trees.ACCESS_ACL)
            Path(target, "new/third").write_text("")
            expected = signature(target)
        top = driver.apply(None, chain[0], io.BytesIO(b"".join(driver.diff("two"))))
        with mounted(driver.view([top.chain_id, *chain]), target):
            assert differences(signature(target), expected) == {}
            assert trees.ACLS[0] not in os.listxattr(f"{target}/etc/passwd")

    def test_export_of_a_layer_gives_the_same_view(self, driver: GraphDriver, target: str, tmp_path: Path) -> None:
        chain = stack(driver, BASE, SECOND, THIRD)
        with mounted(driver.view(chain), target):
            expected = signature(target)
        other = self.open(tmp_path / "other")
        again = stack(other, *(b"".join(driver.export_layer(identifier)) for identifier in reversed(chain)))
        with mounted(other.view(again), target):
            assert differences(signature(target), expected) == {}

    def test_layers_in_use_stay(self, driver: GraphDriver) -> None:
        chain = stack(driver, BASE, SECOND)
        with pytest.raises(LayerInUse):
            driver.remove_layer(chain[1])
        driver.prepare("one", chain)
        with pytest.raises(LayerInUse):
            driver.remove_layer(chain[0])
        driver.remove_container("one")
        driver.remove_container("one")  # absent is fine
        for identifier in chain:
            driver.remove_layer(identifier)
            driver.remove_layer(identifier)
        self.assert_empty(driver)

    def test_leftovers_of_a_crash_are_swept(self, driver: GraphDriver, tmp_path: Path) -> None:
        chain = stack(driver, BASE)
        root = Path(driver.root)  # type: ignore[attr-defined]
        for leftover in (root / "tmp" / "x", root / "layers" / ("ab" * 32), root / "containers" / "lost"):
            (leftover / "deep").mkdir(parents=True)
        again = self.open(tmp_path / "data")
        assert [layer.chain_id for layer in again.table.layers()] == chain
        assert os.listdir(root / "tmp") == []
        assert len(os.listdir(root / "layers")) == 1
        assert os.listdir(root / "containers") == []

    def test_a_layer_without_its_row_is_replaced(self, driver: GraphDriver) -> None:
        chain = stack(driver, BASE)
        driver.table.delete(chain[0])  # as after a crash between rename and row, with the agent still running
        assert stack(driver, BASE) == chain

    def test_very_deep_trees_can_be_removed(self, driver: GraphDriver, target: str) -> None:
        with mounted(driver.prepare("deep", []), target):
            current = os.open(target, os.O_RDONLY)
            for _ in range(1200):
                os.mkdir("d", dir_fd=current)
                below = os.open("d", os.O_RDONLY, dir_fd=current)
                os.close(current)
                current = below
            os.close(current)
        driver.remove_container("deep")
        self.assert_empty(driver)
        assert os.listdir(f"{driver.root}/containers") == []  # type: ignore[attr-defined]

    def test_concurrent_apply_and_prepare(self, driver: GraphDriver) -> None:
        diff_id = f"sha256:{hashlib.sha256(BASE).hexdigest()}"
        results: list[object] = []

        def work() -> None:
            results.append(driver.apply(diff_id, None, io.BytesIO(BASE)))
            results.append(tuple(driver.prepare("one", [diff_id])))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 8
        assert len(set(results)) == 2

    def test_chain_ids(self, driver: GraphDriver) -> None:
        chain = stack(driver, BASE, SECOND)
        diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (BASE, SECOND)]
        assert chain == [chain_id(diff_ids[0], diff_ids[1]), diff_ids[0]]
        assert driver.table.chain(chain[0]) == chain

    def test_switching_drivers_hides_and_returns(self, driver: GraphDriver, tmp_path: Path, target: str) -> None:
        chain = stack(driver, BASE)
        with mounted(driver.prepare("one", chain), target):
            Path(target, "mine").write_text("kept")
        other = choose(str(tmp_path / "data"), "overlay2" if self.driver_name == "vfs" else "vfs")
        assert other.table.layers() == []
        assert other.table.containers() == {}
        again = self.open(tmp_path / "data")
        assert [layer.chain_id for layer in again.table.layers()] == chain
        with mounted(again.prepare("one", chain), target):
            assert Path(target, "mine").read_text() == "kept"

    def test_usage_grows_by_what_is_written(self, driver: GraphDriver, target: str) -> None:
        with mounted(driver.prepare("one", stack(driver, BASE)), target):
            before = driver.usage("one")
            Path(target, "big").write_bytes(os.urandom(1 << 20))
            assert 1 << 20 <= driver.usage("one") - before < 2 << 20
