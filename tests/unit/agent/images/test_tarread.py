"""The tar reader against Python's own tarfile, on every format it writes and on any bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.storage.errors import LayerInvalid, LayerTooLarge
from agent.storage.limits import Limits
from agent.storage.tarread import ChunkReader, TarReader
from agent.storage.tarwrite import END, file_bytes, header
from tests.contract.archives import archive, entry, folder, hardlink, symlink

LIMITS = Limits(max_bytes=16 << 20)
SEED = archive(
    folder("d"),
    entry("d/f", b"content" * 100, pax={"SCHILY.xattr.user.k": "v", "path": "d/other"}),
    symlink("d/l", "t" * 120),
    hardlink("h", "d/f"),
    entry("s", b"abcd", pax={"GNU.sparse.map": "0,2,8,2", "GNU.sparse.size": "10"}),
)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for place in range(0, len(data), size):
        yield data[place : place + size]


def read(data: bytes, size: int = 1000) -> list[tuple[object, ...]]:
    reader = TarReader(pieces(data, size), LIMITS)
    found: list[tuple[object, ...]] = []
    for item in reader:
        content = b"".join(bytes(piece) for piece in reader.data())
        name = item.name.rstrip(b"/")
        found.append(
            (name, item.type, item.mode, item.uid, item.gid, item.mtime_ns, item.linkname, item.size, content, item.xattrs)
        )
    return found


names = st.text(st.characters(exclude_characters="\0/", exclude_categories=("Cs",)), min_size=1, max_size=180)
members = st.builds(
    lambda name, data, uid, mtime, xattr: entry(
        name, data, uid=uid, mtime=mtime, pax={"SCHILY.xattr.user.a": xattr} if xattr else {}
    ),
    names,
    st.binary(max_size=1500),
    st.sampled_from([0, 7, 2_097_152, 4_000_000_000]),
    st.sampled_from([0, 1_600_000_000, 1_600_000_000.5]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20),
)


@settings(deadline=None)
@given(st.lists(members, max_size=5), st.integers(1, 2000))
def test_reads_what_tarfile_writes_as_pax(items: list[tuple[tarfile.TarInfo, bytes]], size: int) -> None:
    data = archive(*items)
    found = read(data, size)
    assert [(name, kind, uid, content) for name, kind, _, uid, _, _, _, _, content, _ in found] == [
        (info.name.encode(), b"0", info.uid, content) for info, content in items
    ]
    assert [item[5] for item in found] == [round(info.mtime * 10**9) for info, _ in items]
    assert [item[9] for item in found] == [
        {key.removeprefix("SCHILY.xattr.").encode(): value.encode() for key, value in info.pax_headers.items()}
        for info, _ in items
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(form: int) -> None:
    long = "/".join(["directory" * 5] * 5)
    items = [
        folder("d"),
        entry(f"{long}/f", b"x" * 513, uid=1234, gid=99, mode=0o640),
        symlink("l", "t" * 90),
        hardlink("h", f"{long[:80]}"),
    ]
    found = read(archive(*items, form=form))
    assert [item[:5] for item in found] == [(info.name.encode(), info.type, info.mode, info.uid, info.gid) for info, _ in items]
    assert [item[6] for item in found] == [info.linkname.encode() for info, _ in items]


def test_gnu_base_256_numbers() -> None:
    found = read(archive(entry("f", b"x", uid=1 << 30, mtime=-5), form=tarfile.GNU_FORMAT))
    assert (found[0][3], found[0][5]) == (1 << 30, -5 * 10**9)


@given(st.lists(st.binary(max_size=30), max_size=20), st.lists(st.integers(0, 50), max_size=20))
def test_chunk_reader(chunks: list[bytes], sizes: list[int]) -> None:
    whole = io.BytesIO(b"".join(chunks))
    reader = ChunkReader(iter(chunks))
    for size in sizes:
        assert reader.read(size) == whole.read(size)
    rest = b""
    while piece := bytes(reader.take(7)):
        assert len(piece) <= 7
        rest += piece
    assert rest == whole.read()


paths = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=150)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=4000))
def test_any_bytes_end_in_a_result_or_a_refusal(data: bytes) -> None:
    try:
        read(data)
    except (LayerInvalid, LayerTooLarge) as error:
        assert error.detail  # noqa: PT017  # the kind is what is asserted


@settings(deadline=None, max_examples=1000)
@given(st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=12)), min_size=1, max_size=6))
def test_mutated_archives_end_in_a_result_or_a_refusal(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(SEED)
    for place, piece in changes:
        data[place : place + len(piece)] = piece
    for block in range(0, len(data) - 511, 512):  # right checksums let mutations past the first gate
        if data[block + 257 : block + 262] == b"ustar":
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    try:
        read(bytes(data))
    except (LayerInvalid, LayerTooLarge) as error:
        assert error.detail  # noqa: PT017  # the kind is what is asserted


@given(
    st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name),
    st.integers(-(2**33), 2**35),
    st.integers(0, 2**32 - 2),
    st.dictionaries(st.sampled_from([b"SCHILY.xattr.user.a", b"SCHILY.xattr.user.b"]), st.binary(max_size=200)),
)
def test_writes_what_it_reads(name: bytes, mtime: int, uid: int, extra: dict[bytes, bytes]) -> None:
    block = header(name, b"0", 0o600, uid=uid, mtime_ns=mtime, size=3, extra=extra) + b"abc" + bytes(509) + END
    reader = TarReader(iter([block]), LIMITS)
    for item in reader:
        assert (item.name, item.uid, item.mtime_ns, item.size) == (name, uid, mtime, 3)
        assert {b"SCHILY.xattr." + key: value for key, value in item.xattrs.items()} == extra


@settings(deadline=None)
@given(paths.filter(lambda path: bool(path.strip("/"))))
@example("0/")
def test_tarfile_reads_what_we_write(name: str) -> None:
    data = header(name.encode(), b"0", 0o600, uid=5, size=2, mtime_ns=1_500_000_000) + b"ab" + bytes(510)
    with tarfile.open(fileobj=io.BytesIO(data + file_bytes("z", b"zz") + END)) as tar:
        first, second = tar.getmembers()
    # tarfile takes a closing slash off names from pax records alone
    assert (first.name.rstrip("/"), first.uid, first.mtime, second.name) == (name.rstrip("/"), 5, 1.5, "z")


def test_pax_records_of_every_length() -> None:
    # The length of a record counts its own digits: borders at 10, 100 and 1000 bytes.
    for length in range(1, 1100):
        with tarfile.open(fileobj=io.BytesIO(header(b"f", b"0", 0o600, extra={b"k": b"v" * length}) + END)) as tar:
            assert tar.getmembers()[0].pax_headers == {"k": "v" * length}
