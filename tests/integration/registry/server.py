"""Starting, killing and restarting the registry's test server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.server.listener import bind
from tests.integration.controlplane.listening import Authority
from tests.integration.registry.beside import Beside
from tests.integration.registry.serve_registry import PASSWORD
from tests.migrated import migrated

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class RegistryServer:
    """`workers` processes on the same sockets, as replicas of one web process are."""

    home: Path
    database_url: str = ""
    workers: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    beside: Beside | None = None

    def __post_init__(self) -> None:
        self.sockets = [bind("127.0.0.1", 0), bind("127.0.0.1", 0)]
        self.port, self.tls_port = (sock.getsockname()[1] for sock in self.sockets)
        self.authority = Authority(self.home, "test-ca")
        self.certificate, self.key, _ = self.authority.issue("registry")
        self.password = PASSWORD

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def tls_host(self) -> str:
        return f"127.0.0.1:{self.tls_port}"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WHARF_")}
        return {
            **inherited,
            "DJANGO_SETTINGS_MODULE": "tests.integration.registry.settings",
            "PYTHONPATH": str(ROOT),
            "WHARF_HOME": str(self.home),
            "WHARF_REDIS_URL": "memory://",
            "WHARF_LOG_LEVEL": "WARNING",
            **({"WHARF_DATABASE_URL": self.database_url} if self.database_url else {}),
            **self.settings,
        }

    def start(self) -> None:
        database = self.home / "db.sqlite3"
        if not self.database_url and not database.exists():
            migrated(database)
        for number in range(self.workers):
            environment = {**self.environment, "REGISTRY_TEST_MIGRATE": "0" if number else "1"}
            self._start(environment)

    def _start(self, environment: dict[str, str]) -> None:
        numbers = [sock.fileno() for sock in self.sockets]
        command = [sys.executable, "-m", "tests.integration.registry.serve_registry"]
        with (self.home / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, str(numbers[0]), str(numbers[1]), self.certificate, self.key],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=numbers,
            )
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == b"ready\n", self.log()

    def python(self, program: str) -> str:
        """Run `program` beside the server, on its database and store, in a process of its own; returns what it prints."""
        if self.beside is None or self.beside.environment != self.environment:
            self._leave()
            self.beside = Beside(self.environment)
        return self.beside.run(program)

    def module(self, name: str) -> str:
        """The same of a module, which sets Django up itself."""
        done = subprocess.run(
            [sys.executable, "-m", name], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self) -> str:
        return (self.home / "server.log").read_text("utf-8", "replace")[-8000:]

    def kill(self) -> None:
        """kill -9, as the kernel's out-of-memory killer would."""
        self._end(signal.SIGKILL)

    def kill_one(self, number: int) -> None:
        """kill -9 of one of several processes; the others go on."""
        process = self.processes.pop(number)
        process.kill()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()

    def start_one(self) -> None:
        self._start({**self.environment, "REGISTRY_TEST_MIGRATE": "0"})

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        for process in self.processes:
            process.send_signal(number)
        for process in self.processes:
            process.wait(30)
            assert process.stdout is not None
            process.stdout.close()
        self.processes.clear()

    def _leave(self) -> None:
        if self.beside is not None:
            self.beside.close()
            self.beside = None

    def close(self) -> None:
        self._leave()
        self.kill()
        for sock in self.sockets:
            sock.close()


@contextmanager
def registry_server(home: Path, **options: object) -> Iterator[RegistryServer]:
    server = RegistryServer(home, **options)  # type: ignore[arg-type]  # its own fields
    try:
        server.start()
        yield server
    finally:
        server.close()
