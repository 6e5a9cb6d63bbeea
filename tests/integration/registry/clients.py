"""What the tests of real clients share: a HOME of their own, the two transports, images that every client can read."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from agent.protocol.oci import MEDIA_OCI_CONFIG, MEDIA_OCI_LAYER_GZIP
from tests.conformance.distribution.client import Registry, digest_of
from tests.conformance.distribution.content import Document, descriptor, layer, manifest
from tests.integration.registry.server import RegistryServer

Host = tuple[str, list[str]]


@pytest.fixture
def home(tmp_path: Path, server: RegistryServer) -> Path:
    """HOME of the clients, with a policy that trusts what we push."""
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_text(server.authority.pem)
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    (tmp_path / "auth.json").write_text("{}")
    (tmp_path / "registries.conf").write_text("unqualified-search-registries = []\n")
    return tmp_path


def environment_of(home: Path) -> dict[str, str]:
    """Nothing of the caller's: his credentials, his configuration and his storage stay out of it."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
        "DOCKER_CONFIG": str(home / "docker"),
    }


def run(home: Path, *command: str, fails: bool = False, **more: str) -> str:
    """What the command prints; on `fails`, what it complains of. `more` joins its environment."""
    done = subprocess.run(command, env={**environment_of(home), **more}, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) is fails, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stderr if fails else done.stdout


def skopeo(home: Path, verb: str, *arguments: str, fails: bool = False) -> str:
    return run(home, "skopeo", "--policy", str(home / "policy.json"), verb, *arguments, fails=fails)


def write_layout(directory: Path, document: Document) -> None:
    """`document` as an OCI image layout with the tag "img"."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def write(part: Document) -> None:
        for data in (part.raw, *part.blobs):
            (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        for child in part.children:
            write(child)

    write(document)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = document.descriptor(annotations={"org.opencontainers.image.ref.name": "img"})
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def real_image(architecture: str = "amd64") -> Document:
    """An image whose configuration tells the truth about its layer, as an engine that unpacks it demands."""
    packed = layer()
    diff_id = digest_of(gzip.decompress(packed))
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/file"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "COPY file /file"}],
    }
    raw = json.dumps(config).encode()
    return manifest(descriptor(raw, MEDIA_OCI_CONFIG), [descriptor(packed, MEDIA_OCI_LAYER_GZIP)], [raw, packed])


def served_digest(registry: Registry, name: str, reference: str) -> str:
    """The digest under a tag: what the registry says, and what its bytes say, which are the same."""
    answer = registry.call("GET", f"/v2/{name}/manifests/{reference}", headers={"Accept": "*/*"}, expect=200)
    assert answer.headers["docker-content-digest"] == digest_of(answer.body)
    return digest_of(answer.body)


def served_platforms(registry: Registry, name: str, reference: str) -> dict[str, str]:
    """Architecture to digest of the children of an index."""
    answer = registry.call("GET", f"/v2/{name}/manifests/{reference}", headers={"Accept": "*/*"}, expect=200)
    return {entry["platform"]["architecture"]: entry["digest"] for entry in answer.json()["manifests"]}


def delete(registry: Registry, name: str, reference: str) -> None:
    """What a client without a command for it leaves to another: the manifest under a tag goes, and every tag of it."""
    registry.call("DELETE", f"/v2/{name}/manifests/{served_digest(registry, name, reference)}", expect=202)


@pytest.fixture(params=["http", "tls"])
def host(request: pytest.FixtureRequest, server: RegistryServer, home: Path) -> Host:
    """(host:port, the options that skopeo, podman and buildah need to reach it)."""
    if request.param == "http":
        return server.host, ["--tls-verify=false"]
    return server.tls_host, ["--cert-dir", str(home / "certs")]
