"""Layers there and back again: ours against overlay on ext4, GNU tar and umoci, down to nanoseconds and holes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.storage import choose, trees
from agent.storage.driver import GraphDriver
from agent.storage.errors import LayerInvalid
from agent.sys import programs
from tests.contract import loopdisk
from tests.contract.archives import archive, entry
from tests.contract.graph_driver_suite import BASE, KEPT, access_list, differences, signature, stack
from tests.contract.mounting import mounted

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and owners")]
LONG = "n" * 200
NANOSECONDS = 1_700_000_001_123_456_789


def furnish(root: str) -> None:
    """One of everything that a layer can say."""
    deep = f"{root}/every/{LONG}/{'d' * 150}"
    os.makedirs(deep)
    Path(deep, "ünïcode").write_bytes(b"x" * 512)
    Path(root, "every/empty").touch()
    _file(f"{root}/every/program", b"#!/bin/sh\n", mode=0o6755, owner=3_000_000_000)
    os.link(f"{root}/every/program", f"{root}/every/alias")
    os.symlink("../" * 40 + "target" + "t" * 60, f"{root}/every/link")
    os.link(f"{root}/every/link", f"{root}/every/same-link", follow_symlinks=False)
    os.chown(f"{root}/every/link", 7, 8, follow_symlinks=False)
    os.mkfifo(f"{root}/every/pipe", 0o640)
    for name, kind, number in (
        ("null", stat.S_IFCHR, (1, 3)),
        ("disk", stat.S_IFBLK, (4095, 1_048_575)),
        ("zero", stat.S_IFBLK, (0, 0)),
    ):
        os.mknod(f"{root}/every/{name}", kind, os.makedev(*number))
        os.chown(f"{root}/every/{name}", 70_000, 6)
        os.chmod(f"{root}/every/{name}", 0o624)
    os.link(f"{root}/every/null", f"{root}/every/same-null")
    os.mkdir(f"{root}/every/sticky")
    os.chmod(f"{root}/every/sticky", 0o3777)
    os.setxattr(f"{root}/every/sticky", "user.kind", b"directory")
    os.setxattr(f"{root}/every/empty", "user.raw", b"\0=\n\xff" * 300)
    with open(f"{root}/every/holes", "wb") as file:
        file.seek(1 << 20)
        file.write(b"between two holes")
        file.truncate(3 << 20)
    for number, path in enumerate(sorted(Path(root, "every").rglob("*"))):
        os.utime(path, ns=(0, NANOSECONDS + number), follow_symlinks=False)
    os.utime(f"{root}/every/empty", ns=(0, -86_400_000_000_001))  # before 1970


def overturn(root: str) -> None:
    """Every way to take away or change what a lower layer holds (that of BASE)."""
    os.unlink(f"{root}/etc/gone")
    os.unlink(f"{root}/lib")
    os.mkdir(f"{root}/lib")
    _file(f"{root}/lib/now-a-directory", b"")
    for name in ("a", "b"):
        os.unlink(f"{root}/opt/old/{name}")
    os.rmdir(f"{root}/opt/old")
    os.mkdir(f"{root}/opt/old")  # opaque: nothing of the old one may shine through
    os.unlink(f"{root}/pipe")
    _file(f"{root}/pipe", b"a file now")
    os.chmod(f"{root}/etc", 0o700)
    os.setxattr(f"{root}/same", "user.new", b"1")
    with open(f"{root}/etc/passwd", "ab") as file:
        file.write(b"more")


def give_lists(root: str) -> None:
    """Access control lists, as setfacl makes them. GNU tar keeps them in words of its own that image tools do not read."""
    os.mkdir(f"{root}/listed")
    _file(f"{root}/listed/file", b"secret", mode=0o640)
    os.setxattr(f"{root}/listed/file", trees.ACCESS_ACL, access_list(70_000, 6))
    os.mkdir(f"{root}/listed/empty")
    for key in trees.ACLS:
        os.setxattr(f"{root}/listed/empty", key, access_list(7, 5))


def _file(path: str, data: bytes, *, mode: int = 0o644, owner: int = 0) -> None:
    Path(path).write_bytes(data)
    os.chown(path, owner, owner)
    os.chmod(path, mode)


def tar_view(data: bytes) -> dict[str, tuple[object, ...]]:
    """What an archive says, by path, whatever its dialect. A directory's time is left out: nobody's extraction agrees on it."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            name = member.name.removeprefix("./").rstrip("/")
            if name in ("", "."):
                continue
            file = tar.extractfile(member) if member.isreg() else None
            content = hashlib.sha256(file.read()).hexdigest() if file else ""
            link = member.linkname.removeprefix("./") if member.islnk() else member.linkname
            xattrs = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.user.")}
            when = "" if member.isdir() else f"{float(member.pax_headers.get('mtime', member.mtime)):.6f}"
            kind = "file" if member.isreg() else member.type
            owner = (member.uid, member.gid)
            content = content or (f"{member.devmajor}:{member.devminor}" if member.isdev() else "")
            found[name] = (kind, oct(member.mode), *owner, when, link, content, tuple(sorted(xattrs.items())))
    return found


@pytest.fixture
def disk(ext4_disk: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=ext4_disk))


@pytest.fixture
def driver(disk: Path) -> GraphDriver:
    return choose(str(disk / "data"), "overlay2", rights=KEPT)


@pytest.fixture
def target(disk: Path) -> str:
    return str(disk / "target")


def tar(directory: Path, *options: str) -> bytes:
    """GNU tar's own archive of a directory."""
    path = programs.find("tar")
    assert path
    form = ("--format=pax", "--xattrs", "--sparse", "--numeric-owner", "--sort=name", *options)
    return subprocess.run([path, "-C", str(directory), "-c", *form, "."], check=True, capture_output=True).stdout


def test_a_layer_of_gnu_tar_comes_back_as_it_was(driver: GraphDriver, disk: Path, target: str) -> None:
    source = disk / "source"
    source.mkdir()
    furnish(str(source))
    (source / "every/same-null").unlink()  # GNU tar makes two devices of a device with two names
    theirs = tar(source)
    layer = stack(driver, theirs)
    with mounted(driver.view(layer), target):
        assert differences(signature(target), signature(str(source))) == {}
        assert os.stat(f"{target}/every/holes").st_blocks * 512 < 1 << 20
    ours = b"".join(driver.export_layer(layer[0]))
    assert differences(tar_view(ours), tar_view(theirs)) == {}


def test_gnu_tar_reads_what_we_write(driver: GraphDriver, disk: Path, target: str) -> None:
    with mounted(driver.prepare("one", []), target):
        furnish(target)
        expected = signature(target)
    archive, there = disk / "layer.tar", disk / "there"
    archive.write_bytes(b"".join(driver.diff("one")))
    there.mkdir()
    options = ("--xattrs", "--xattrs-include=user.*", "--numeric-owner", "--same-owner", "-p")
    loopdisk.tool("tar", "-C", str(there), "-x", "-f", str(archive), *options)
    assert differences(signature(str(there)), expected) == {}
    assert os.stat(there / "every/holes").st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("name", ["overlay2", "vfs"])
def test_a_diff_applied_elsewhere_is_the_container(disk: Path, target: str, name: str) -> None:
    """Whiteouts and opaque directories included: container over BASE, its diff as a layer over BASE, and that layer's export."""
    driver = choose(str(disk / "data"), name, rights=KEPT)
    base = stack(driver, BASE)
    with mounted(driver.prepare("one", base), target):
        overturn(target)
        furnish(target)
        expected = signature(target)
    diff = b"".join(driver.diff("one"))
    other = choose(str(disk / "other"), "vfs" if name == "overlay2" else "overlay2", rights=KEPT)
    chain = stack(other, BASE, diff)
    with mounted(other.view(chain), target):
        assert differences(signature(target), expected) == {}
    again = b"".join(other.export_layer(chain[0]))
    assert differences(_unordered(again), _unordered(diff)) == {}


def _unordered(data: bytes) -> dict[str, tuple[object, ...]]:
    """`tar_view` in which it does not matter how a directory's old content is hidden: by one mark, or name by name."""
    return {path: entry for path, entry in tar_view(data).items() if not os.path.basename(path).startswith(".wh.")}


def test_a_diff_is_the_same_at_any_time(driver: GraphDriver, target: str) -> None:
    with mounted(driver.prepare("one", stack(driver, BASE)), target):
        overturn(target)
        furnish(target)
    first = b"".join(driver.diff("one"))
    assert b"".join(driver.diff("one")) == first
    layer = driver.apply(None, stack(driver, BASE)[0], io.BytesIO(first))
    assert b"".join(driver.export_layer(layer.chain_id)) == first  # byte for byte


def test_sockets_stay_behind(driver: GraphDriver, target: str) -> None:
    with mounted(driver.prepare("one", []), target):
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(target):
            listener.bind("special")
        Path(target, "file").write_text("x")
    assert list(tar_view(b"".join(driver.diff("one")))) == ["file"]


def test_what_looks_like_a_whiteout_stays_behind(disk: Path, target: str) -> None:
    """Elsewhere than on an overlay a container with CAP_MKNOD can make one; an overlay would hide the name below."""
    driver = choose(str(disk / "data"), "vfs", rights=KEPT)
    with mounted(driver.prepare("one", []), target):
        os.mknod(f"{target}/special", stat.S_IFCHR, 0)
        Path(target, "file").write_text("x")
    assert list(tar_view(b"".join(driver.diff("one")))) == ["file"]


@pytest.mark.parametrize("name", ["overlay2", "vfs"])
def test_devices_are_refused_unless_the_node_keeps_them(disk: Path, target: str, name: str) -> None:
    layer = archive(entry("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666))
    with pytest.raises(LayerInvalid) as caught:
        choose(str(disk / "plain"), name).apply(None, None, io.BytesIO(layer))
    assert caught.value.extra["rule"] == "device"
    keeping = choose(str(disk / "keeping"), name, rights=KEPT)
    with mounted(keeping.view(stack(keeping, layer)), target):
        assert os.lstat(f"{target}/null").st_rdev == os.makedev(1, 3)


class Umoci:
    """umoci's own view of a stack of layers, and its own diff of a changed tree."""

    def __init__(self, home: Path) -> None:
        self.layout = home / "layout"
        self.image = f"{self.layout}:image"
        self.bundle = home / "bundle"
        loopdisk.tool("umoci", "init", "--layout", str(self.layout))
        loopdisk.tool("umoci", "new", "--image", self.image)

    def add(self, data: bytes) -> None:
        file = self.layout.parent / "layer.tar"
        file.write_bytes(data)
        loopdisk.tool("umoci", "raw", "add-layer", "--image", self.image, str(file))

    def unpack(self) -> str:
        loopdisk.tool("umoci", "unpack", "--image", self.image, str(self.bundle))
        return str(self.bundle / "rootfs")

    def repack(self) -> bytes:
        """The layer with what changed in the unpacked tree."""
        before = set(self._blobs())
        loopdisk.tool("umoci", "repack", "--image", self.image, str(self.bundle))
        new = [path for path in self._blobs() if path not in before and path.read_bytes()[:2] == b"\x1f\x8b"]
        assert len(new) == 1
        return new[0].read_bytes()

    def _blobs(self) -> list[Path]:
        return [path for path in (self.layout / "blobs").rglob("*") if path.is_file()]


@pytest.mark.skipif(programs.find("umoci") is None, reason="needs umoci")
def test_umoci_sees_our_layers_as_we_do(driver: GraphDriver, disk: Path, target: str) -> None:
    base = stack(driver, BASE)
    with mounted(driver.prepare("one", base), target):
        overturn(target)
        furnish(target)
        give_lists(target)
        expected = signature(target)
    umoci = Umoci(disk)
    umoci.add(b"".join(driver.export_layer(base[0])))
    umoci.add(b"".join(driver.diff("one")))
    assert differences(signature(umoci.unpack()), expected) == {}


@pytest.mark.skipif(programs.find("umoci") is None, reason="needs umoci")
@pytest.mark.parametrize("change", [furnish, overturn, give_lists])
def test_we_see_umocis_layers_as_it_does(driver: GraphDriver, disk: Path, target: str, change: Callable[[str], None]) -> None:
    umoci = Umoci(disk)
    umoci.add(BASE)
    root = umoci.unpack()
    change(root)
    expected = _whole_seconds(signature(root))
    chain = stack(driver, BASE)
    top = driver.apply(None, chain[0], io.BytesIO(umoci.repack()))
    with mounted(driver.view([top.chain_id, *chain]), target):
        assert differences(_whole_seconds(signature(target)), expected) == {}


def _whole_seconds(seen: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """umoci's archives round times to seconds."""
    return {path: (*entry[:3], round(int(str(entry[3])) / 1e9), *entry[4:]) for path, entry in seen.items()}
