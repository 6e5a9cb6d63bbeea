"""Malicious layers against the real extraction helper, with a canary tree outside the target that must never change."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol.errors import WharfError
from agent.storage import choose
from agent.storage import extract as extraction
from agent.storage.errors import DigestMismatch, ExtractionFailed, LayerInvalid, LayerTooLarge
from agent.storage.extract import Extracted, extract
from agent.storage.limits import Limits, Rights
from tests.contract.archives import archive, entry, fifo, folder, hardlink, symlink
from tests.integration.agent.extraction_probe import FORBIDDEN

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners and user namespaces")]

SMALL = Limits(max_bytes=8 << 20, max_entries=200, ratio_slack=1 << 20, seconds=60)
Unpack = Callable[..., Extracted]


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            content = Path(path).read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[path] = (info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns, content)
    return found


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "outside"
    (root / "dir").mkdir(parents=True)
    (root / "secret").write_text("untouched")
    (root / "dir" / "file").write_text("untouched")
    before = snapshot(root)
    yield root
    assert snapshot(root) == before


@pytest.fixture(params=[False, True], ids=["overlay", "merged"])
def unpack(request: pytest.FixtureRequest, tmp_path: Path, canary: Path) -> Unpack:
    target = tmp_path / "target"
    target.mkdir()

    def run(data: bytes, limits: Limits = SMALL, rights: Rights | None = None, compressed: str | None = None) -> Extracted:
        return extract(
            io.BytesIO(data), str(target), limits=limits, rights=rights or Rights(), merged=request.param, compressed=compressed
        )

    return run


def long_pax(key: str, size: int) -> bytes:
    return archive(entry("f", pax={key: "x" * size}))


def hand_header(name: bytes, size: int, *, kind: bytes = b"0", sparse: bytes = b"") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = b"%011o\0" % size
    block[156:157] = kind
    block[257:265] = b"ustar  \0" if sparse else b"ustar\x0000"
    block[386 : 386 + len(sparse)] = sparse
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


DEVICE = {"devmajor": 1, "devminor": 3}
REFUSED: dict[str, tuple[bytes, str]] = {
    "absolute path": (archive(entry("/etc/x", b"x")), "absolute"),
    "parent path": (archive(entry("../outside/secret", b"x")), "parent"),
    "parent in the middle": (archive(entry("a/../../outside/secret", b"x")), "parent"),
    "parent as a directory": (archive(folder("..")), "parent"),
    "NUL in a pax path": (archive(entry("f", pax={"path": "a\0b"})), "nul"),
    "character device": (archive(entry("null", kind=tarfile.CHRTYPE, **DEVICE)), "device"),
    "block device": (archive(entry("disk", kind=tarfile.BLKTYPE, **DEVICE)), "device"),
    "raw overlay whiteout": (archive(entry("gone", kind=tarfile.CHRTYPE, devmajor=0, devminor=0)), "device"),
    "symlink, then through it": (archive(symlink("l", "../outside"), entry("l/secret", b"x")), "parent_link"),
    "absolute symlink, then through it": (archive(symlink("l", "/"), entry("l/etc/x", b"x")), "parent_link"),
    "symlink two levels up": (archive(folder("d"), symlink("d/l", "../../outside"), entry("d/l/dir/file", b"x")), "parent_link"),
    "directory swapped for a symlink": (
        archive(folder("d"), entry("d/a", b"x"), symlink("d", "../outside"), entry("d/secret", b"x")),
        "parent_link",
    ),
    "file as a parent": (archive(entry("f", b"x"), entry("f/g", b"x")), "parent_link"),
    "hard link out by path": (archive(hardlink("h", "../outside/secret")), "parent"),
    "hard link to an absolute path": (archive(hardlink("h", "/etc/passwd")), "absolute"),
    "hard link through a symlink": (archive(symlink("l", "../outside"), hardlink("h", "l/secret")), "hardlink"),
    "hard link to nothing": (archive(hardlink("h", "nothing")), "hardlink"),
    "hard link to a directory": (archive(folder("d"), hardlink("h", "d")), "hardlink"),
    "hard link to itself": (archive(entry("h", b"x"), hardlink("h", "./h")), "hardlink"),
    "empty whiteout": (archive(entry(".wh.")), "whiteout"),
    "whiteout of the directory": (archive(entry("d/.wh..")), "whiteout"),
    "whiteout of the parent": (archive(entry("d/.wh...")), "whiteout"),
    "whiteout of a whiteout": (archive(entry(".wh..wh.x")), "whiteout"),
    "bare double whiteout": (archive(entry(".wh..wh.")), "whiteout"),
    "whiteout as a directory": (archive(entry(".wh.d/f", b"x")), "whiteout"),
    "whiteout through a symlink": (archive(symlink("l", "../outside"), entry("l/.wh.secret")), "parent_link"),
    "opaque through a symlink": (archive(symlink("l", "../outside"), entry("l/.wh..wh..opq")), "parent_link"),
    "root as a file": (archive(entry("./", kind=tarfile.SYMTYPE, linkname="/")), "root"),
    "unknown type": (archive(entry("x", kind=b"Z")), "type"),
    "bad checksum": (b"7" * 512 + bytes(1024), "checksum"),
    "no tar at all": (b"x" * 512 + bytes(1024), "header"),
    "cut header": (archive(entry("f", b"x"))[:300], "truncated"),
    "cut content": (archive(entry("f", b"x" * 5000))[:2000], "truncated"),
    "cut gzip": (gzip.compress(archive(entry("f", os.urandom(5000))))[:-2000], "compression"),
    "broken gzip": (b"\x1f\x8b\x08\x00" + b"\xff" * 100, "compression"),
    "owner out of range": (archive(entry("f", pax={"uid": "4294967295"})), "owner"),
    "time out of range": (archive(entry("f", pax={"mtime": "99999999999"})), "time"),
    "pax record with a false length": (
        hand_header(b"x", 20, kind=b"x") + b"99 path=/etc/passwd\n" + bytes(492) + hand_header(b"f", 0) + bytes(1024),
        "pax",
    ),
    "pax header at the end": (hand_header(b"x", 12, kind=b"x") + b"12 path=abc\n" + bytes(500) + bytes(1024), "truncated"),
    "overlapping sparse map": (
        hand_header(b"s", 1024, kind=b"S", sparse=b"%011o\0%011o\0%011o\0%011o\0" % (0, 512, 100, 512)) + bytes(2048),
        "sparse",
    ),
    "name longer than the file system allows": (archive(entry("n" * 256, b"x")), "filesystem"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(unpack: Unpack, name: str) -> None:
    data, rule = REFUSED[name]
    with pytest.raises(LayerInvalid) as caught:
        unpack(data)
    assert caught.value.extra["rule"] == rule


def _many(count: int) -> bytes:
    return archive(*(entry(f"f{number}") for number in range(count)))


def _zstd_window(log: int) -> bytes:
    # A frame header that asks for a window of 2**log bytes (RFC 8878, 3.1.1.1.2), then one raw block.
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + struct.pack("<I", (3 << 3) | 1)[:3] + b"abc"


TOO_LARGE: dict[str, tuple[bytes, str]] = {
    "gzip bomb": (gzip.compress(bytes(6 << 20), 9), "ratio"),
    "zstd bomb": (zstandard.compress(bytes(6 << 20), 19), "ratio"),
    "gzip bomb in many members": (gzip.compress(bytes(1 << 20), 9) * 7, "ratio"),
    "plain bytes": (archive(entry("f", bytes(9 << 20))), "bytes"),
    "sparse file": (archive(entry("f", pax={"GNU.sparse.map": "", "GNU.sparse.size": str(9 << 20)})), "bytes"),
    "declared size": (hand_header(b"f", 8 << 30), "bytes"),
    "entries": (_many(201), "entries"),
    "path": (archive(entry("/".join(["d" * 200] * 21), b"x")), "path"),
    "depth": (archive(entry("d/" * 256 + "f", b"x")), "depth"),
    "xattr": (long_pax("SCHILY.xattr.user.x", (64 << 10) + 1), "xattr"),
    "pax header": (long_pax("comment", 1 << 20), "pax"),
    "GNU long name": (hand_header(b"x", (1 << 20) + 1, kind=b"L"), "pax"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large(unpack: Unpack, name: str) -> None:
    data, limit = TOO_LARGE[name]
    with pytest.raises(LayerTooLarge) as caught:
        unpack(data)
    assert caught.value.extra["limit"] == limit


def test_a_zstd_window_over_the_limit(unpack: Unpack) -> None:
    assert unpack(zstandard.compress(archive(entry("f", b"x")))).entries == 1
    with pytest.raises(LayerInvalid, match=r"(?i)memory|window"):
        unpack(_zstd_window(28))


def test_limits_are_inclusive(unpack: Unpack) -> None:
    deep = "d/" * 255 + "f"
    assert unpack(archive(entry(deep, b"x"))).entries == 1
    assert unpack(_many(200)).entries == 200


def test_aufs_leftovers_are_skipped(unpack: Unpack, tmp_path: Path) -> None:
    unpack(
        archive(
            folder(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", b"x"), entry(".wh..wh.aufs"), folder(".wh..wh.orph"), entry("f")
        )
    )
    assert os.listdir(tmp_path / "target") == ["f"]


def test_privileges_are_stripped_unless_kept(unpack: Unpack, tmp_path: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    pax = {
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.user.overlay.redirect": "/etc",
        "SCHILY.xattr.user.fine": "1",
    }
    data = archive(entry("f", b"x", mode=0o6755, pax=pax))
    path = tmp_path / "target" / "f"
    unpack(data)
    assert os.listxattr(path) == ["user.fine"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    unpack(data, rights=Rights(keep_setuid=True, keep_capabilities=True))
    assert sorted(os.listxattr(path)) == ["security.capability", "user.fine"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o6755


def test_a_list_that_is_none_is_refused(unpack: Unpack, tmp_path: Path) -> None:
    for key in ("access", "default"):
        data = archive(folder("d", pax={f"SCHILY.xattr.system.posix_acl_{key}": "rwx"}))
        with pytest.raises(LayerInvalid, match=f"'d/?': system.posix_acl_{key} is no access control list") as caught:
            unpack(data)
        assert caught.value.extra["rule"] == "acl"


def test_multi_member_gzip_is_one_stream(unpack: Unpack, tmp_path: Path) -> None:
    data = archive(entry("a", b"a" * 3000), entry("b", b"b" * 3000))
    result = unpack(b"".join(gzip.compress(data[place : place + 1000]) for place in range(0, len(data), 1000)) + bytes(100))
    assert (result.entries, result.tar_size) == (2, len(data))
    assert (tmp_path / "target" / "b").read_bytes() == b"b" * 3000


def test_duplicates_and_type_changes_in_order(unpack: Unpack, tmp_path: Path) -> None:
    unpack(
        archive(
            entry("x", b"file"),
            folder("x"),
            entry("x/child", b"1"),
            symlink("x", "nowhere"),
            fifo("x"),
            folder("y"),
            entry("y/z", b"1"),
            entry("y", b"last"),
            entry("w", b"old"),
            hardlink("v", "w"),
            entry("w", b"new"),
        )
    )
    target = tmp_path / "target"
    assert stat.S_ISFIFO((target / "x").lstat().st_mode)
    assert (target / "y").read_bytes() == b"last"
    # Overwriting one name never writes through to the other.
    assert ((target / "v").read_bytes(), (target / "w").read_bytes()) == (b"old", b"new")


def test_compressed_digest_is_checked(unpack: Unpack) -> None:
    with pytest.raises(DigestMismatch):
        unpack(archive(entry("f", b"x")), compressed="sha512:" + "0" * 128)


def test_time_is_limited(tmp_path: Path) -> None:
    read, write = os.pipe()  # nobody ever writes: the helper waits for the archive
    try:
        with open(read, "rb") as source, pytest.raises(ExtractionFailed, match="within 1 s"):
            extract(source, str(tmp_path), limits=Limits(seconds=1), rights=Rights(), merged=False)
    finally:
        os.close(write)


def test_memory_is_limited(tmp_path: Path) -> None:
    data = archive(*(entry(f"{number}/" + "d" * 200) for number in range(2000)))
    with pytest.raises(ExtractionFailed):
        extract(io.BytesIO(data), str(tmp_path), limits=Limits(memory=24 << 20), rights=Rights(), merged=True)


def test_a_killed_agent_takes_its_helper_along(tmp_path: Path) -> None:
    read, write = os.pipe()
    code = (
        "import sys; from agent.storage import choose; from agent.storage.limits import Limits\n"
        f"choose({str(tmp_path)!r}).apply(None, None, sys.stdin.buffer)"
    )
    agent = subprocess.Popen([sys.executable, "-c", code], stdin=read, cwd=extraction._HOME)
    os.close(read)
    try:
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
        helper = int(eventually(children.read_text).split()[0])
        leftovers = tmp_path / "overlay2" / "tmp"
        status = Path(f"/proc/{helper}/status")
        assert eventually(lambda: "Seccomp:\t2" in status.read_text())  # it has given everything up and waits for the archive
        assert eventually(lambda: os.listdir(leftovers))
        agent.kill()
        agent.wait()
        assert eventually(lambda: not _alive(helper))
        choose(str(tmp_path))
        assert os.listdir(leftovers) == []
    finally:
        os.close(write)
        agent.kill()
        agent.wait()


def eventually(question: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (answer := question()):
        assert time.monotonic() < deadline, "it did not come true"
    return answer


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_helper_owns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the helper process can do after it dropped its rights, seen from inside."""
    start = extraction._PROGRAM.replace("agent.storage.helper", "tests.integration.agent.extraction_probe")
    monkeypatch.setattr(extraction, "_PROGRAM", start)
    (tmp_path / "f").write_text("#!/bin/sh\n")
    (tmp_path / "f").chmod(0o755)
    with pytest.raises(ExtractionFailed, match="probed") as caught:
        extract(io.BytesIO(b""), str(tmp_path), limits=SMALL, rights=Rights(), merged=False)
    found = dict(caught.value.extra["found"])
    assert found.pop("start a thread") == "works"
    assert set(found) == set(FORBIDDEN)
    assert [name for name, outcome in found.items() if outcome == "allowed"] == []


SEED = archive(
    folder("d"),
    entry("d/f", b"content" * 100, pax={"SCHILY.xattr.user.k": "v"}),
    symlink("d/l", "../../outside"),
    hardlink("h", "d/f"),
    entry("d/.wh.gone"),
    entry("d/.wh..wh..opq"),
    entry("long/" + "n" * 150, b"x"),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.binary(min_size=1, max_size=12)), min_size=1, max_size=6),
    fix=st.booleans(),
    packed=st.booleans(),
)
def test_mutated_archives(tmp_path: Path, canary: Path, changes: list[tuple[int, bytes]], fix: bool, packed: bool) -> None:
    """Any bytes: a clean result or a WharfError with a known code, and the canary lives."""
    before = snapshot(canary)
    data = bytearray(SEED)
    for place, piece in changes:
        data[place : place + len(piece)] = piece
    if fix:  # keep the checksums right, so that mutations get past the first gate
        for block in range(0, len(data) - 511, 512):
            if data[block + 257 : block + 262] == b"ustar":
                data[block + 148 : block + 156] = b" " * 8
                data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    target = tmp_path / os.urandom(8).hex()
    target.mkdir()
    try:
        extract(
            io.BytesIO(gzip.compress(bytes(data)) if packed else bytes(data)),
            str(target),
            limits=SMALL,
            rights=Rights(),
            merged=False,
        )
    except WharfError as error:
        assert error.code in ("layer_invalid", "layer_too_large")  # noqa: PT017  # the kind is what is asserted
    assert snapshot(canary) == before
