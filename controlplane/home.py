"""Files that live in WHARF_HOME and never in the environment: secrets of mode 0600 in directories of mode 0700.

Standard library only: settings reads it before Django exists, the launcher without Django.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from agent.protocol.errors import WharfError

# Values that people copy from tutorials. A secret that stands here is no secret.
KNOWN_SECRETS = frozenset({"secret", "changeme", "change-me", "password", "wharf", "insecure", "test", "default", "admin"})
MIN_SECRET = 32


def default_home() -> Path:
    """Where the state lives when WHARF_HOME names no place."""
    return Path("/var/lib/wharfinger") if os.geteuid() == 0 else Path.home() / ".local/share/wharfinger"


class UnsafeSecret(WharfError):
    """A secret file that others can read, or whose value is known or too short. The process must not start."""

    code = "unsafe_secret"
    status = 500


def ensure_directory(path: Path) -> Path:
    """Makes `path` (mode 0700) with its parents when absent."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Writes `path` with mode 0600 so that readers see the old or the new bytes and never a part."""
    ensure_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_private(path: Path) -> bytes:
    """Bytes of `path`.

    Raises UnsafeSecret when group or others may read or write it: whoever else read it once can forge sessions for ever.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise UnsafeSecret(
                f"{path} has mode {mode:04o}: run `chmod 600 {path}`, and replace the secret if others had access."
            )
        return stream.read()


def read_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """Bytes of `path`, made by `make` when absent. Two processes that start together end with the same bytes."""
    try:
        return read_private(path)
    except FileNotFoundError:
        pass
    ensure_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    write_private(temporary, make())
    try:
        os.link(temporary, path)  # fails when somebody else was first: unlike a rename, which would replace their secret
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
    return read_private(path)


def check_secret(text: str, where: str) -> str:
    """`text` when it can be a secret; raises UnsafeSecret when it is short, repetitive, or one of the known ones."""
    lowered = text.strip().lower()
    if lowered in KNOWN_SECRETS or lowered.startswith("django-insecure"):
        raise UnsafeSecret(f"{where} holds a well-known value: delete the file, a new random one is made at the next start.")
    if len(text) < MIN_SECRET or len(set(text)) < 10:
        raise UnsafeSecret(
            f"{where} holds fewer than {MIN_SECRET} random characters: delete the file, a new one is made at the next start."
        )
    return text


def secret_key(path: Path) -> str:
    """The signing key of sessions and heads: read from `path`, made there (64 random characters) at first use."""
    raw = read_or_create(path, lambda: secrets.token_urlsafe(48).encode())
    return check_secret(raw.decode("utf-8", "replace").strip(), str(path))
