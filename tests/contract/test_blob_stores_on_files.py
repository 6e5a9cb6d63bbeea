"""What only the driver of files does: locks, and disks that are full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.storage.filesystem import FilesystemStore
from registry.storage.store import BlobStore, StoreFull, UploadBusy
from tests.contract.test_blob_stores import digest, read

MakeStore = Callable[[], BlobStore]


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    return lambda: FilesystemStore(str(tmp_path / "store"))


@pytest.fixture
def store(make_store: MakeStore) -> BlobStore:
    return make_store()


def test_one_writer_an_upload(make_store: MakeStore) -> None:
    writer = make_store().writer("s1", 0, "sha256", None)
    writer.write(b"mine")
    with pytest.raises(UploadBusy):
        make_store().writer("s1", 0, "sha256", None)
    writer.close()
    again = make_store().writer("s1", 4, "sha256", None)
    assert again.offset == 4
    again.close()


@pytest.mark.parametrize("call", ["write", "fdatasync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_whenever_it_shows(store: BlobStore, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """File systems that allocate late refuse as late as at the sync; the upload stays, and goes through once there is room."""

    def refuse(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    data = b"x" * 5000
    with monkeypatch.context() as full:
        full.setattr(os, call, refuse)
        with pytest.raises(StoreFull):
            store.put(digest(data), data)
        with pytest.raises(StoreFull):
            upload(store, data)
    assert store.open(digest(data)) is None
    upload(store, data)
    assert read(store, digest(data)) == data


def upload(store: BlobStore, data: bytes) -> None:
    writer = store.writer("late", 0, "sha256", None)
    try:
        writer.write(data)
        store.commit("late", writer, digest(data))
    finally:
        writer.close()


def test_writer_killed_in_mid_write_is_followed_by_another(make_store: MakeStore, tmp_path: Path) -> None:
    """kill -9 frees the upload at once, and only acknowledged bytes stay."""
    program = (
        "import os, sys\n"
        "from registry.storage.filesystem import FilesystemStore\n"
        "writer = FilesystemStore(sys.argv[1]).writer('s1', 0, 'sha256', None)\n"
        "writer.write(b'abc')\n"
        "print('written', flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout == b"written\n", done.stderr
    writer = make_store().writer("s1", 0, "sha256", None)
    assert writer.offset == 0
    writer.write(b"xyz")
    make_store().commit("s1", writer, digest(b"xyz"))
