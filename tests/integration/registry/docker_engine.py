"""Docker's own engine in namespaces of its own: its data below one directory, no bridge, no rules, and an /etc of its own.

It may be asked to pull, push and import; containers would need cgroups and networks.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.registry.clients import run
from tests.integration.registry.server import ROOT, RegistryServer
from tests.pace import patience

PROGRAMS = ("docker", "dockerd", "containerd", "runc")
UNPACKED = ("docker.io/usr/bin", "docker.io/usr/sbin", "containerd/usr/bin")  # below build/, by deploy/prepare
DEADLINE = patience(20.0)

# /etc stays what it is below, and the trusted authority of a registry is where Docker's users put it; /run is containerd's.
# Without a bridge an engine removes the machine's docker0, so that the network must be another one than the machine's.
DAEMON = """
mount -t tmpfs -o mode=755 run /run && mkdir /run/upper /run/work &&
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work etc /etc &&
mkdir -p "/etc/docker/certs.d/$1" && cp "$0/ca.crt" "/etc/docker/certs.d/$1" &&
exec dockerd --host "unix://$0/docker.sock" --data-root "$0/data" --exec-root "$0/exec" --pidfile "$0/pid" --storage-driver vfs \
  --bridge none --iptables=false --ip6tables=false --ip-forward=false >"$0/log" 2>&1
"""

Docker = Callable[..., str]


def path() -> str:
    return ":".join([os.environ["PATH"], *(str(ROOT / "build" / name) for name in UNPACKED)])


def missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=path()) is None]


@contextmanager
def docker_engine(server: RegistryServer) -> Iterator[Callable[[Path], Docker]]:
    """From a client's HOME to its `docker`; `fails=True` wants it refused and returns the complaint.

    Needs tests.nodes.isolate() before the server was started.
    """
    with tempfile.TemporaryDirectory(prefix="wharf-") as directory:  # sockets have short names
        place = Path(directory)
        (place / "ca.crt").write_text(server.authority.pem)
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        environment = {"PATH": path(), "HOME": directory}
        engine = subprocess.Popen([*apart, "sh", "-c", DAEMON, directory, server.tls_host], env=environment)
        try:
            _wait_for(place, engine)

            def client(home: Path) -> Docker:
                words = ["docker", "--host", f"unix://{place}/docker.sock"]
                return lambda *command, fails=False: run(home, *words, *command, fails=fails, PATH=path())

            yield client
        finally:
            _end(engine)


def _wait_for(place: Path, engine: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE
    said = place / "log"
    while "API listen on" not in (text := said.read_text() if said.exists() else ""):
        assert engine.poll() is None, text[-3000:]
        assert time.monotonic() < deadline, f"the engine does not listen: {text[-3000:]}"
        time.sleep(0.02)


def _end(engine: subprocess.Popen[bytes]) -> None:
    """Kills the first process inside, and all others with it; unshare waits for that."""
    inside = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split() if engine.poll() is None else []
    for child in inside:
        os.kill(int(child), signal.SIGKILL)
    if not inside:
        engine.kill()
    engine.wait(DEADLINE)
