"""Files with secrets: modes, races, refusals."""

from __future__ import annotations

import secrets
import threading

import pytest

from controlplane.home import UnsafeSecret, check_secret, read_or_create, read_private, secret_key, write_private


def test_files_are_private_and_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file"
    write_private(path, b"one")
    write_private(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (b"two", 0o600, 0o700)
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_a_readable_secret_is_refused(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0o640)
    with pytest.raises(UnsafeSecret, match="0640"):
        read_private(path)


def test_a_link_is_not_followed(tmp_path):
    write_private(tmp_path / "real", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="symbolic"):
        read_private(tmp_path / "link")


def test_racing_creators_end_with_the_same_bytes(tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(read_or_create(tmp_path / "k", lambda: secrets.token_bytes(16))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {(tmp_path / "k").read_bytes()}


@pytest.mark.parametrize("bad", ["", "secret", "CHANGEME", "a" * 80, "abc123", "django-insecure-8Yq2Zr5Lw7Xc1Vb4Nm9Kj6Hg3Fd0Sa"])
def test_known_and_weak_values_are_refused(bad):
    with pytest.raises(UnsafeSecret):
        check_secret(bad, "here")


def test_the_key_is_made_once(tmp_path):
    assert secret_key(tmp_path / "k") == secret_key(tmp_path / "k")
