"""A large upload on the file system: the disk works while bytes come, not only at the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.protocol.oci import Digest
from registry.storage.filesystem import FilesystemStore

BATCH = 1 << 20


def test_the_disk_is_set_to_work_on_each_part_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, data = FilesystemStore(str(tmp_path)), os.urandom(BATCH) * 20
    begun: list[tuple[int, int]] = []
    real = os.posix_fadvise

    def advise(fd: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        begun.append((offset, length))
        real(fd, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    writer = store.writer("upload", 0, "sha256", None)
    for start in range(0, 11 * BATCH, BATCH):
        writer.write(data[start : start + BATCH])
    state = writer.state()
    writer.close()
    writer = store.writer("upload", 11 * BATCH, "sha256", state)  # as another process goes on
    for start in range(11 * BATCH, len(data), BATCH):
        writer.write(data[start : start + BATCH])
    digest = Digest.of(data)
    store.commit("upload", writer, digest)
    assert begun == [(0, 8 * BATCH), (11 * BATCH, 8 * BATCH)]
    stored = store.open(digest)
    assert stored is not None
    assert stored.read_at(0, len(data) + 1) == data
    stored.close()
