"""oras-py, the library of ORAS, over plain HTTP on loopback and over TLS.

It pushes with HTTP Basic only: its way with tokens keeps the first one it got, which is for pulling, whatever a later challenge
asks for. Its login asks nobody and always succeeds, so that a wrong password shows at the first request.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from oras.client import OrasClient
from oras.layout import Layout, NewLayoutFromRegistry
from oras.oci import Subject

from agent.protocol.oci import MEDIA_OCI_MANIFEST
from tests.conformance.distribution.client import Registry, digest_of
from tests.conformance.distribution.content import image, index
from tests.integration.registry.clients import Host, served_digest, served_platforms, write_layout
from tests.integration.registry.server import RegistryServer

Oras = Callable[..., OrasClient]


@pytest.fixture
def oras(server: RegistryServer, home: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Oras]:
    """Makes clients of one registry; each logs in as alice, with "" for a password it does not."""
    address, _ = host
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(home))  # the library leaves directories behind
    monkeypatch.setitem(sys.modules, "docker", None)  # else login would hand the password to an engine of this machine

    with ExitStack() as sessions:

        def make(password: str | None = None, backend: str = "basic") -> OrasClient:
            authority = str(home / "certs" / "ca.crt")
            made = OrasClient(address, insecure=address == server.host, tls_verify=authority, auth_backend=backend)
            made.session.trust_env = False  # nothing of the caller's proxies and bundles
            sessions.enter_context(made.session)
            if password != "":
                made.login("alice", server.password if password is None else password, hostname=address)
            return made

        yield make


def _copy(client: OrasClient, source: str, target: str, between: Path) -> None:
    """What `oras copy` does, which the library has no call for."""
    manifest = client.get_manifest(source)
    for number, part in enumerate([manifest["config"], *manifest["layers"]]):
        kept = client.download_blob(source, part["digest"], str(between / str(number)))
        assert client.upload_blob(kept, target, part).status_code == 201
    assert client.upload_manifest(manifest, client.get_container(target)).status_code == 201


def test_login_push_pull_copy_delete(
    oras: Oras, server: RegistryServer, home: Path, host: Host, alice: Registry, charlie: Registry
) -> None:
    address, _ = host
    name, other = alice.repository(), alice.repository()
    target, copied = f"{address}/{name}:v1", f"{address}/{other}:copied"
    (home / "folder").mkdir()
    contents = {"text": b"hello\n", "large": os.urandom(3_000_000), "folder/inner": b"packed\n"}
    for path, content in contents.items():
        (home / path).write_bytes(content)
    files = {"files": [f"{home}/text:text/plain", f"{home}/large", f"{home}/folder"], "disable_path_validation": True}

    with pytest.raises(ValueError, match=r"password .* is wrong"):
        oras(password="wrong").push(target, **files)
    client = oras()
    with pytest.raises(ValueError, match="NAME_UNKNOWN"):
        client.push(f"{address}/{charlie.repository()}:v1", **files)

    digest = client.push(target, **files).headers["Docker-Content-Digest"]
    assert served_digest(alice, name, "v1") == digest
    for backend in ("basic", "token"):
        where = home / f"pulled-{backend}"
        oras(password="", backend=backend).pull(target, outdir=str(where))  # the login is kept
        assert {path: (where / path).read_bytes() for path in contents} == contents
    (home / ".docker" / "config.json").unlink()
    with pytest.raises(ValueError, match="Unauthorized"):
        oras(password="", backend="token").pull(target, outdir=str(home / "stranger"))

    (home / "between").mkdir()
    _copy(client, target, copied, home / "between")
    assert served_digest(alice, other, "copied") == digest
    assert client.get_tags(copied) == ["copied"]

    assert client.delete_tags(target, ["v1"]) == ["v1"]
    assert client.delete_tags(target, ["v1"]) == []
    with pytest.raises(ValueError, match="Not Found"):
        client.pull(target, outdir=str(home / "gone"))
    assert len(client.pull(f"{address}/{other}@{digest}", outdir=str(home / "again"))) == len(files["files"]), "the copy stays"


def test_a_blob_in_chunks(oras: Oras, home: Path, host: Host, alice: Registry) -> None:
    address, _ = host
    name = alice.repository()
    content = os.urandom(700_000)
    (home / "large").write_bytes(content)
    pushed = oras().push(
        f"{address}/{name}:v1", files=[f"{home}/large"], disable_path_validation=True, do_chunked=True, chunk_size=300_000
    )
    assert served_digest(alice, name, "v1") == pushed.headers["Docker-Content-Digest"]
    assert alice.call("GET", f"/v2/{name}/blobs/{digest_of(content)}", expect=200).body == content


def test_an_index_of_two_platforms(oras: Oras, home: Path, host: Host, alice: Registry) -> None:
    address, _ = host
    name, other = alice.repository(), alice.repository()
    children = {architecture: image(architecture=architecture) for architecture in ("amd64", "arm64")}
    entries = [child.descriptor(platform={"os": "linux", "architecture": key}) for key, child in children.items()]
    document = index(*children.values(), manifests=entries)
    write_layout(home / "layout", document)
    client = oras()

    Layout(str(home / "layout")).push_to_registry(client, f"{address}/{name}:multi", tag="img")
    copy = NewLayoutFromRegistry(str(home / "copy"), client, f"{address}/{name}:multi")
    copy.push_to_registry(client, f"{address}/{other}:multi")
    for repository in (name, other):
        assert served_digest(alice, repository, "multi") == document.digest
        assert served_platforms(alice, repository, "multi") == {key: child.digest for key, child in children.items()}
    for child in children.values():
        assert client.get_manifest(f"{address}/{other}@{child.digest}") == child.json
        for content in (child.raw, *child.blobs):
            assert copy.digest_to_blob_path(digest_of(content)).read_bytes() == content


def test_what_is_attached_is_a_referrer(oras: Oras, server: RegistryServer, home: Path, host: Host, alice: Registry) -> None:
    address, _ = host
    name = alice.repository()
    client = oras()
    for file in ("program", "sbom"):
        (home / file).write_text(f"{file} of {name}")
    pushed = client.push(f"{address}/{name}:v1", files=[f"{home}/program"], disable_path_validation=True)
    digest = pushed.headers["Docker-Content-Digest"]
    subject = Subject(MEDIA_OCI_MANIFEST, digest, len(pushed.request.body))
    attached = client.push(
        f"{address}/{name}:sbom",
        files=[f"{home}/sbom"],
        disable_path_validation=True,
        subject=subject,
        manifest_annotations={"org.example.kind": "sbom"},
    )
    assert attached.headers["OCI-Subject"] == digest

    url = f"{client.prefix}://{address}/v2/{name}/referrers/{digest}"
    listed = client.do_request(url).json()["manifests"]
    assert [entry["digest"] for entry in listed] == [attached.headers["Docker-Content-Digest"]]
    assert listed[0]["annotations"] == {"org.example.kind": "sbom"}
    kind = quote(listed[0]["artifactType"])
    assert client.do_request(f"{url}?artifactType={kind}").json()["manifests"] == listed
    assert client.do_request(f"{url}?artifactType=application/vnd.example.none").json()["manifests"] == []
