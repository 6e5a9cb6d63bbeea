"""The docker command, over plain HTTP on loopback and over TLS.

It has an engine do its pulls and pushes. Here that is podman's service, which speaks Docker's API and, unlike dockerd, keeps to
a directory and needs no root (Docker's own engine: test_docker_engine.py); `docker manifest` needs none and asks the registry.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import layer
from tests.integration.registry.clients import (
    Host,
    delete,
    environment_of,
    real_image,
    run,
    served_digest,
    served_platforms,
)
from tests.integration.registry.server import RegistryServer

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="this machine has no docker command (the CLI of Docker)")

Docker = Callable[..., str]
DEADLINE = 20.0


@pytest.fixture
def docker(home: Path, server: RegistryServer) -> Iterator[Docker]:
    """Runs the client at an engine of its own; `fails=True` wants it refused and returns the complaint."""
    if shutil.which("podman") is None:
        pytest.skip("this machine has no podman (Debian package podman), whose service is the engine here")
    trusted = home / ".config" / "containers" / "certs.d" / server.tls_host
    trusted.mkdir(parents=True)
    (trusted / "ca.crt").write_text(server.authority.pem)
    with (home / "registries.conf").open("a") as configuration:
        configuration.write(f'[[registry]]\nlocation = "{server.host}"\ninsecure = true\n')
    (home / ".config" / "containers" / "policy.json").write_text((home / "policy.json").read_text())
    with tempfile.TemporaryDirectory(prefix="wharf-") as short, (home / "engine.log").open("wb") as log:
        storage = ["--root", str(home / "root"), "--runroot", short, "--storage-driver", "vfs", "--tmpdir", str(home / "podman")]
        more = ["--events-backend", "none", "--network-config-dir", str(home / "networks")]
        address = f"unix://{short}/engine.sock"
        engine = subprocess.Popen(
            ["podman", *storage, *more, "system", "service", "--time=0", address],
            env=environment_of(home),
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(Path(short) / "engine.sock", engine, home)
            yield lambda *command, fails=False: _run(home, "-H", address, *command, fails=fails)
        finally:
            engine.terminate()
            engine.wait(DEADLINE)


def _run(home: Path, *command: str, fails: bool = False) -> str:
    """It finds the authority of the registry where Go looks for authorities, and nothing in /etc/docker."""
    return run(home, "docker", *command, fails=fails, SSL_CERT_FILE=str(home / "certs" / "ca.crt"))


def _login(docker: Docker, home: Path, server: RegistryServer, address: str, password: str, fails: bool = False) -> str:
    """Over HTTP without an engine, as docker then does itself: podman's service would try nothing but TLS."""
    arguments = ["login", "-u", "alice", "-p", password, address]
    if address == server.tls_host:
        return docker(*arguments, fails=fails)
    return _run(home, "-H", f"unix://{home}/absent", *arguments, fails=fails)


def _keep_the_password(home: Path, server: RegistryServer, address: str) -> None:
    """In place of the refresh token of docker's own login: podman's service takes no such token for a push."""
    secret = base64.b64encode(f"alice:{server.password}".encode()).decode()
    (home / "docker" / "config.json").write_text(json.dumps({"auths": {address: {"auth": secret}}}))


def _wait_for(socket: Path, engine: subprocess.Popen[bytes], home: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not socket.is_socket():
        assert engine.poll() is None, (home / "engine.log").read_text()
        assert time.monotonic() < deadline, "the engine opened no socket"
        time.sleep(0.02)


def test_login_push_pull_copy_delete(
    docker: Docker, server: RegistryServer, home: Path, host: Host, alice: Registry, charlie: Registry
) -> None:
    address, _ = host
    name, other = alice.repository(), alice.repository()
    target, copied = f"{address}/{name}:v1", f"{address}/{other}:v1"
    (home / "rootfs.tar").write_bytes(gzip.decompress(layer()))
    docker("import", str(home / "rootfs.tar"), target)
    image_id = _id_of(docker, target)

    assert "denied" in docker("push", target, fails=True)
    refused = _login(docker, home, server, address, "wrong", fails=True)
    assert "unauthorized" in refused.lower()
    assert "Login Succeeded" in _login(docker, home, server, address, server.password)

    if address == server.host:
        kept = json.loads((home / "docker" / "config.json").read_text())["auths"][address]
        assert kept["identitytoken"], "docker's own login keeps a refresh token"
        _keep_the_password(home, server, address)

    pushed = docker("push", target)
    digest = served_digest(alice, name, "v1")
    assert f"v1: digest: {digest}" in pushed
    docker("rmi", "--force", image_id)
    docker("pull", f"{address}/{name}@{digest}")
    assert _id_of(docker, f"{address}/{name}@{digest}") == image_id, "the same configuration came back"

    docker("tag", f"{address}/{name}@{digest}", copied)
    docker("push", copied)
    assert served_digest(alice, other, "v1") == digest
    foreign = f"{address}/{charlie.repository()}:v1"
    docker("tag", copied, foreign)
    assert "denied" in docker("push", foreign, fails=True)

    delete(alice, name, "v1")
    docker("rmi", "--force", image_id)
    assert "manifest unknown" in docker("pull", target, fails=True)
    docker("pull", copied)
    assert _id_of(docker, copied) == image_id


def test_an_index_of_two_platforms(docker: Docker, server: RegistryServer, home: Path, alice: Registry) -> None:
    """Made and pushed over HTTP, which is all that `docker manifest push` speaks to a loopback address; read over both."""
    name = alice.repository()
    images = {architecture: real_image(architecture) for architecture in ("amd64", "arm64")}
    for architecture, document in images.items():
        push(alice, name, document, architecture)
    parts = [f"{server.host}/{name}:{architecture}" for architecture in images]
    target = f"{server.host}/{name}:multi"
    assert "unauthorized" in docker("manifest", "create", "--insecure", target, *parts, fails=True)
    _login(docker, home, server, server.host, server.password)
    docker("manifest", "create", "--insecure", target, *parts)
    pushed = docker("manifest", "push", "--insecure", "--purge", target).strip()

    digests = {architecture: document.digest for architecture, document in images.items()}
    assert served_digest(alice, name, "multi") == pushed
    assert served_platforms(alice, name, "multi") == digests
    _login(docker, home, server, server.tls_host, server.password)
    for address in (server.host, server.tls_host):
        target = f"{address}/{name}:multi"
        shown = json.loads(docker("manifest", "inspect", "--insecure", target))
        assert {entry["platform"]["architecture"]: entry["digest"] for entry in shown["manifests"]} == digests
        for architecture, document in images.items():
            docker("pull", "--platform", f"linux/{architecture}", target)
            assert _id_of(docker, target) == document.json["config"]["digest"]


def _id_of(docker: Docker, reference: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", reference).strip()
