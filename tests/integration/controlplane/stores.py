"""A PostgreSQL cluster and a Valkey of our own, in temporary directories."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from controlplane.launcher.valkey import command as valkey_command


def wait_for(condition: object, what: str, seconds: float = 60.0) -> None:
    """Until `condition()` is true. A deadline, not a pause: it only bounds how long a failure takes."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # any callable
        assert time.monotonic() < deadline, f"gave up waiting: {what}"
        time.sleep(0.05)


class Valkey:
    """A server on a unix socket that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(valkey_command(self.directory), stdout=subprocess.DEVNULL)
        wait_for(self._answers, "valkey answers")

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def valkey() -> Iterator[Valkey]:
    directory = Path(tempfile.mkdtemp(prefix="wharf-valkey-"))
    server = Valkey(directory)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
        shutil.rmtree(directory)


def _as_postgres() -> list[str]:
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("this machine has no user postgres (Debian package postgresql)")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("this machine has no PostgreSQL server (Debian package postgresql)")
    return found[-1].parent


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database on a cluster of its own."""
    binaries, prefix = _binaries(), _as_postgres()
    directory = Path(tempfile.mkdtemp(prefix="wharf-pg-"))
    if prefix:
        shutil.chown(directory, "postgres", "postgres")
    data = directory / "data"
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "wharf", "--auth=trust", "-N", "-E", "UTF8", "--locale=C"]
    server = None
    try:
        subprocess.run([*prefix, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
        options = ["-k", str(directory), "-h", "", "-c", "fsync=off", "-c", "shared_buffers=32MB"]
        server = subprocess.Popen(
            [*prefix, str(binaries / "postgres"), "-D", str(data), *options],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = [str(binaries / "pg_isready"), "-h", str(directory), "-q"]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, "postgres is ready")
        yield f"postgresql://wharf@/postgres?host={directory}"
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait(30)
        shutil.rmtree(directory)
