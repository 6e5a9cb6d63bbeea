"""Archives that nobody should write, for Hypothesis: few names, so that entries meet, and every way out that tar has."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import Any

import zstandard
from hypothesis import strategies as st

OUTSIDE = "../outside"
LONG = "n" * 120
PLAIN = ("a", "b", "a/b", "a/b/c", "d", "d/e", "l", "l/x", "./a", "a//b", LONG, f"{LONG}/{LONG}", "ünï", "a/../b")
HOSTILE = (
    "",
    ".",
    "./",
    "..",
    "/",
    "/abs",
    "a/..",
    f"{OUTSIDE}/secret",
    f"a/../{OUTSIDE}/new",
    "l/secret",
    "l/../outside/secret",
    "n" * 256,
    "p/" * 300 + "x",
    "q" * 5000,
    "new\nline",
    "back\\slash",
    "\udcff\udc80",
)
WHITEOUTS = (
    ".wh.a",
    "a/.wh.b",
    "l/.wh.secret",
    ".wh.l",
    ".wh..wh..opq",
    "a/.wh..wh..opq",
    "l/.wh..wh..opq",
    ".wh.",
    ".wh..",
    ".wh...",
    ".wh..wh.x",
    ".wh..wh.plnk",
    ".wh.a/b",
)
TARGETS = ("a", "b", "d/e", ".", "..", "/", OUTSIDE, f"{OUTSIDE}/secret", f"{OUTSIDE}/dir", "l", "/proc/self/root", "a/b/c", "")
KINDS = {
    "file": tarfile.REGTYPE,
    "old file": tarfile.AREGTYPE,
    "directory": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "contiguous": tarfile.CONTTYPE,
    "sparse": tarfile.GNUTYPE_SPARSE,
    "unknown": b"Z",
}
PAX = {
    "path": ("/abs", f"{OUTSIDE}/secret", "l/x", "a\0b", ""),
    "linkpath": (f"{OUTSIDE}/secret", "/", ""),
    "size": ("0", "-1", "1e3", "99999999999", "7"),
    "uid": ("-1", "4294967295", "3000000000", "x"),
    "mtime": ("-1.5", "1e9", "99999999999999999999", "1.999999999"),
    "SCHILY.xattr.user.k": ("v", "x" * 70_000),
    "SCHILY.xattr.system.posix_acl_access": ("", "x", "\x02\0\0\0" + "\0" * 800),
    "SCHILY.xattr.system.posix_acl_default": ("\x02\0\0\0",),
    "SCHILY.xattr.trusted.overlay.opaque": ("y",),
    "SCHILY.xattr.user.overlay.redirect": ("/etc",),
    "SCHILY.xattr.security.capability": ("\x01",),
    "GNU.sparse.map": ("0,1,5,2", "5,1,0,1", "0,99", "x"),
    "GNU.sparse.size": ("20", "-1", "9999999999999"),
    "GNU.sparse.major": ("1", "2"),
    "GNU.sparse.minor": ("0",),
    "GNU.sparse.realsize": ("3", "99"),
    "GNU.sparse.name": (f"{OUTSIDE}/secret", "/abs", "a"),
    "comment": ("c" * 100,),
}
Member = tuple[tarfile.TarInfo, bytes]


def _pax(keys: list[str]) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(PAX[key]) for key in keys})


@st.composite
def members(draw: Any, names: tuple[str, ...], kinds: tuple[str, ...], pax: tuple[str, ...] = ()) -> Member:
    info = tarfile.TarInfo(draw(st.sampled_from(names)))
    info.type = KINDS[draw(st.sampled_from(kinds))]
    info.linkname = draw(st.sampled_from(TARGETS)) if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    data = draw(st.binary(max_size=20)) if info.isreg() or info.type == tarfile.GNUTYPE_SPARSE else b""
    info.size = len(data)
    info.mode = draw(st.sampled_from([0o644, 0o755, 0, 0o7777, 0o4755]))
    info.uid, info.gid = draw(st.sampled_from([(0, 0), (1, 2), (70_000, 3)]))
    info.mtime = draw(st.sampled_from([0, 1_600_000_000, 1]))
    info.devmajor, info.devminor = draw(st.sampled_from([(1, 3), (0, 0), (8, 1)]))
    if pax and draw(st.integers(0, 3)) == 0:
        info.pax_headers = draw(_pax(list(pax)))
    return info, data


honest = st.lists(members(PLAIN, ("file", "directory", "link", "hard link", "fifo")), min_size=1, max_size=10)
hostile = st.lists(members(PLAIN + HOSTILE + WHITEOUTS, tuple(KINDS), tuple(PAX)), min_size=1, max_size=12)
formats = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])


def write(entries: list[Member], form: int) -> bytes:
    """An archive, without the entries that this format cannot say."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for info, data in entries:
            try:
                tar.addfile(info, io.BytesIO(data))
            except (ValueError, UnicodeError):
                continue  # too long a name for ustar, a half pair of surrogates for pax
    return buffer.getvalue()


def mend_checksums(data: bytearray) -> None:
    """So that mutations get past the first gate."""
    for block in range(0, len(data) - 511, 512):
        if data[block + 257 : block + 262] == b"ustar":
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])


@st.composite
def archives(draw: Any) -> bytes:
    """Hostile entries, and in half of them bytes changed, the end cut off, or a second archive behind."""
    data = bytearray(write(draw(hostile), draw(formats)))
    damage = draw(st.sampled_from(["none", "none", "none", "bytes", "cut", "twice"]))
    if damage == "bytes":
        for place, piece in draw(
            st.lists(st.tuples(st.integers(0, len(data) - 1), st.binary(min_size=1, max_size=12)), max_size=4)
        ):
            data[place : place + len(piece)] = piece
        mend_checksums(data)
    elif damage == "cut":
        del data[draw(st.integers(0, len(data))) :]
    elif damage == "twice":
        data.extend(bytes(data))
    packing = draw(st.sampled_from(["plain", "plain", "gzip", "zstd", "half gzip"]))
    if packing == "zstd":
        return zstandard.compress(bytes(data))
    packed = gzip.compress(bytes(data), 1, mtime=0) if "gzip" in packing else bytes(data)
    return packed[: len(packed) // 2] if packing == "half gzip" else packed
