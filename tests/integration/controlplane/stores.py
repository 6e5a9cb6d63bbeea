"""A Valkey that tests kill and start again, and a wait with a deadline. (tests.servers has the ones that just run.)"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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
