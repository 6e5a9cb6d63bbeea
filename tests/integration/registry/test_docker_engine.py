"""Docker's own engine and its command line, over plain HTTP on loopback and over TLS."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import layer
from tests.integration.registry.clients import Host, delete, real_image, served_digest, served_platforms
from tests.integration.registry.docker_engine import Docker, docker_engine, missing
from tests.integration.registry.server import RegistryServer, registry_server
from tests.nodes import isolate

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
    pytest.mark.skipif(bool(missing()), reason=f"this machine has no {', '.join(missing())} (Debian package docker.io)"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """On the loopback of the engine, which is not the machine's."""
    isolate()
    with registry_server(tmp_path_factory.mktemp("registry")) as running:
        yield running
        assert "defect" not in running.log(), running.log()


@pytest.fixture(scope="module")
def engine(server: RegistryServer) -> Iterator[Callable[[Path], Docker]]:
    with docker_engine(server) as client:
        yield client


@pytest.fixture
def docker(engine: Callable[[Path], Docker], home: Path) -> Iterator[Docker]:
    """With an engine that has no image."""
    call = engine(home)
    yield call
    if images := call("image", "ls", "--quiet", "--all").split():
        call("rmi", "--force", *dict.fromkeys(images))


def _id_of(docker: Docker, reference: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", reference).strip()


def test_login_push_pull_copy_delete(
    docker: Docker, server: RegistryServer, home: Path, host: Host, alice: Registry, charlie: Registry
) -> None:
    address, _ = host
    name, other = alice.repository(), alice.repository()
    target, copied = f"{address}/{name}:v1", f"{address}/{other}:copied"
    (home / "rootfs.tar").write_bytes(gzip.decompress(layer()))
    image_id = docker("import", str(home / "rootfs.tar"), target).strip()

    docker("push", target, fails=True)
    assert "unauthorized" in docker("login", "-u", "alice", "-p", "wrong", address, fails=True)
    assert "Login Succeeded" in docker("login", "-u", "alice", "-p", server.password, address)
    kept = json.loads((home / "docker" / "config.json").read_text())["auths"][address]
    assert kept["identitytoken"]
    assert base64.b64decode(kept["auth"]) == b"alice:", "a refresh token in place of the password"

    pushed = docker("push", target)
    digest = served_digest(alice, name, "v1")
    assert f"v1: digest: {digest} size:" in pushed
    docker("rmi", "--force", image_id)
    assert f"Digest: {digest}" in docker("pull", f"{address}/{name}@{digest}")
    assert _id_of(docker, f"{address}/{name}@{digest}") == image_id, "the same configuration came back"

    docker("tag", image_id, copied)
    assert f"Mounted from {name}" in docker("push", copied), "no byte of a layer travels twice"
    assert served_digest(alice, other, "copied") == digest
    foreign = f"{address}/{charlie.repository()}:v1"
    docker("tag", image_id, foreign)
    assert "denied" in docker("push", foreign, fails=True)

    delete(alice, name, "v1")
    docker("rmi", "--force", image_id)
    assert "manifest unknown" in docker("pull", target, fails=True)
    docker("pull", copied)
    assert _id_of(docker, copied) == image_id
    docker("logout", address)
    assert "access denied" in docker("pull", copied, fails=True)


def test_an_index_of_two_platforms(docker: Docker, server: RegistryServer, home: Path, alice: Registry) -> None:
    """Made and pushed over HTTP, which is all that `docker manifest push` speaks to a loopback address; pulled over both."""
    given, name, other = alice.repository(), alice.repository(), alice.repository()
    for address in (server.host, server.tls_host):
        docker("login", "-u", "alice", "-p", server.password, address)
    ids, digests = {}, {}
    for architecture in ("amd64", "arm64"):
        document = real_image(architecture)
        push(alice, given, document, architecture)
        docker("pull", "--platform", f"linux/{architecture}", f"{server.tls_host}/{given}:{architecture}")
        ids[architecture] = document.json["config"]["digest"]
        docker("tag", ids[architecture], f"{server.host}/{name}:{architecture}")
        docker("push", f"{server.host}/{name}:{architecture}")
        digests[architecture] = served_digest(alice, name, architecture)
    for repository in (name, other):
        target = f"{server.host}/{repository}:multi"
        docker("manifest", "create", "--insecure", target, *(f"{server.host}/{name}@{digest}" for digest in digests.values()))
        pushed = docker("manifest", "push", "--insecure", "--purge", target).split()[-1]
        assert served_digest(alice, repository, "multi") == pushed
        assert served_platforms(alice, repository, "multi") == digests

    for address in (server.host, server.tls_host):
        for architecture, image_id in ids.items():
            docker("rmi", "--force", *ids.values())
            docker("pull", "--platform", f"linux/{architecture}", f"{address}/{other}:multi")
            assert _id_of(docker, f"{address}/{other}:multi") == image_id
