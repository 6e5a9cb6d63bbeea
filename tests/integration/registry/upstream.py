"""Debian's docker-registry as somebody else's registry: killed and started again on its port, with its data."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.distribution.anchor import BINARY, CONFIG
from tests.integration.controlplane.listening import Authority
from tests.integration.controlplane.stores import wait_for


@dataclass
class Upstream:
    directory: Path
    authority: Authority | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{'https' if self.authority else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert BINARY is not None
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        tls = ""
        if self.authority is not None:
            certificate, key, _ = self.authority.issue("upstream")
            tls = f', tls: {{certificate: "{certificate}", key: "{key}"}}'
        config = self.directory / "upstream.yml"
        config.write_text(CONFIG.format(root=self.directory / "upstream-data", port=self.port, tls=tls))
        self.process = subprocess.Popen([BINARY, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens, "docker-registry listens", 30)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def upstream(directory: Path, authority: Authority | None = None) -> Iterator[Upstream]:
    running = Upstream(directory, authority)
    try:
        running.start()
        yield running
    finally:
        running.kill()
