"""Real clients: skopeo and buildah of Debian, over plain HTTP on loopback and over TLS."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import Document, image, index
from tests.integration.registry.server import RegistryServer

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="this machine has no skopeo (Debian package skopeo)")
needs_buildah = pytest.mark.skipif(shutil.which("buildah") is None, reason="this machine has no buildah (Debian package buildah)")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """HOME of the clients, with a policy that trusts what we push."""
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    (tmp_path / "auth.json").write_text("{}")
    (tmp_path / "registries.conf").write_text("unqualified-search-registries = []\n")
    return tmp_path


def run(home: Path, *command: str, fails: bool = False) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "CONTAINERS_REGISTRIES_CONF": str(home / "registries.conf"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
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


@pytest.fixture(params=["http", "tls"])
def host(request: pytest.FixtureRequest, server: RegistryServer, home: Path) -> Iterator[tuple[str, list[str]]]:
    """(host:port, the options that skopeo needs to reach it)."""
    if request.param == "http":
        yield server.host, ["--tls-verify=false"]
    else:
        certificates = home / "certs"
        certificates.mkdir()
        (certificates / "ca.crt").write_text(server.authority.pem)
        yield server.tls_host, ["--cert-dir", str(certificates)]


def _both(options: list[str]) -> list[str]:
    """The options of one registry as `skopeo copy` wants them for both ends."""
    result: list[str] = []
    for prefix in ("--src-", "--dest-"):
        result += [option.replace("--", prefix, 1) if option.startswith("--") else option for option in options]
    return result


def test_skopeo_login_push_inspect_copy_pull_delete(
    server: RegistryServer, home: Path, host: tuple[str, list[str]], alice: Registry
) -> None:
    address, options = host
    document = image()
    write_layout(home / "layout", document)
    name = alice.repository()
    target = f"docker://{address}/{name}:v1"

    refused = skopeo(home, "login", *options, "-u", "alice", "-p", "wrong", address, fails=True)
    assert "invalid username/password" in refused
    skopeo(home, "login", *options, "-u", "alice", "-p", server.password, address)

    skopeo(home, "copy", *_both(options), f"oci:{home}/layout:img", target)
    shown = json.loads(skopeo(home, "inspect", *options, target))
    assert shown["Digest"] == document.digest, "byte for byte what was pushed"
    assert shown["RepoTags"] == ["v1"]

    other = alice.repository()
    skopeo(home, "copy", *_both(options), target, f"docker://{address}/{other}:copied")
    skopeo(home, "copy", *_both(options), f"docker://{address}/{other}:copied", f"dir:{home}/pulled")
    pulled = home / "pulled"
    assert (pulled / "manifest.json").read_bytes() == document.raw
    for blob in document.blobs:
        assert (pulled / hashlib.sha256(blob).hexdigest()).read_bytes() == blob

    tags = json.loads(skopeo(home, "list-tags", *options, f"docker://{address}/{other}"))
    assert tags["Tags"] == ["copied"]
    skopeo(home, "delete", *options, target)
    skopeo(home, "inspect", *options, target, fails=True)
    skopeo(home, "inspect", *options, f"docker://{address}/{other}:copied")


def test_skopeo_pushes_a_whole_index(server: RegistryServer, home: Path, alice: Registry) -> None:
    document = index(image(), image(architecture="arm64"))
    write_layout(home / "layout", document)
    target = f"docker://{server.host}/{alice.repository()}:multi"
    credentials = f"alice:{server.password}"
    skopeo(
        home, "copy", "--all", "--dest-tls-verify=false", "--dest-creds", credentials, f"oci:{home}/layout:img", target
    )  # fmt: skip
    raw = skopeo(home, "inspect", "--raw", "--tls-verify=false", "--creds", credentials, target)
    assert raw.encode() == document.raw


def test_a_stranger_gets_nothing_and_everybody_gets_what_is_public(
    server: RegistryServer, home: Path, alice: Registry, charlie: Registry
) -> None:
    document = image()
    write_layout(home / "layout", document)
    name = alice.repository()
    target = f"docker://{server.host}/{name}:v1"
    options = ["--dest-tls-verify=false", "--dest-creds"]
    skopeo(home, "copy", *options, f"alice:{server.password}", f"oci:{home}/layout:img", target)

    skopeo(home, "inspect", "--tls-verify=false", "--creds", f"charlie:{server.password}", target, fails=True)
    skopeo(home, "inspect", "--tls-verify=false", target, fails=True)
    skopeo(home, "copy", *options, f"charlie:{server.password}", f"oci:{home}/layout:img", target, fails=True)

    publish = (
        "import django; django.setup()\n"
        "from controlplane.api.actor import SYSTEM\n"
        "from registry.actions.repositories import update_repository\n"
        "from registry.models import Repository\n"
        f"update_repository(SYSTEM, Repository.objects.get(full_name={name!r}), None, visibility='public')\n"
    )
    server.python(publish)
    assert json.loads(skopeo(home, "inspect", "--tls-verify=false", target))["Digest"] == document.digest
    skopeo(home, "copy", *options, f"charlie:{server.password}", f"oci:{home}/layout:img", target, fails=True)


@needs_buildah
def test_buildah_builds_pushes_and_pulls(server: RegistryServer, home: Path, alice: Registry) -> None:
    storage = ["--root", str(home / "root"), "--runroot", str(home / "run"), "--storage-driver", "vfs"]
    name, secret = f"{server.host}/{alice.repository()}:built", f"alice:{server.password}"
    container = run(home, "buildah", *storage, "from", "scratch").strip()
    (home / "hello").write_text("hello from a real build\n")
    run(home, "buildah", *storage, "copy", container, str(home / "hello"), "/hello")
    run(home, "buildah", *storage, "commit", "-q", container, name)
    push = ["push", "--tls-verify=false", "--creds", secret]
    policy = ["--signature-policy", str(home / "policy.json")]
    run(home, "buildah", *storage, *push[:1], *policy, *push[1:], name)
    run(home, "buildah", *storage, "rm", container)
    run(home, "buildah", *storage, "rmi", "-a", "-f")
    run(home, "buildah", *storage, "pull", *policy, "--tls-verify=false", "--creds", secret, name)
    again = run(home, "buildah", *storage, "from", *policy, "--pull-never", name).strip()
    run(home, "buildah", *storage, "rm", again)
    run(home, "buildah", *storage, "rmi", "-a", "-f")
