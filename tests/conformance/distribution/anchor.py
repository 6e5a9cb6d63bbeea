"""Debian's docker-registry 2.8 as a peer: what the suite must find wrong there, so that it is known to find things."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARY = shutil.which("docker-registry")

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"{tls}}}
"""


@contextmanager
def docker_registry(directory: Path, tls: tuple[str, str] | None = None) -> Iterator[str]:
    """The URL of a docker-registry with its data below `directory`. `tls`: files of a certificate and its key."""
    assert BINARY is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = directory / "config.yml"
    speaks = f', tls: {{certificate: "{tls[0]}", key: "{tls[1]}"}}' if tls else ""
    config.write_text(CONFIG.format(root=directory / "data", port=port, tls=speaks))
    process = subprocess.Popen([BINARY, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "docker-registry does not listen"
                time.sleep(0.05)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
