"""What the launcher makes of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.launcher.up import blob_directories


def test_blob_stores_that_are_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHARF_BLOB_STORE", "WHARF_BLOB_STORE_ALSO"):
        monkeypatch.delenv(name, raising=False)
    assert blob_directories() == []
    monkeypatch.setenv("WHARF_BLOB_STORE", "s3://bucket/prefix?endpoint=http://127.0.0.1:9000")
    assert blob_directories() == []
    monkeypatch.setenv("WHARF_BLOB_STORE_ALSO", "/srv/blobs")
    assert blob_directories() == [Path("/srv/blobs")]
