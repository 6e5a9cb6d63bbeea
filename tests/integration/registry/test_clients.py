"""skopeo of Debian, over plain HTTP on loopback and over TLS."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import image, index
from tests.integration.registry.clients import Host, served_digest, skopeo, write_layout
from tests.integration.registry.server import RegistryServer

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="this machine has no skopeo (Debian package skopeo)")


def _both(options: list[str]) -> list[str]:
    """The options of one registry as `skopeo copy` wants them for both ends."""
    result: list[str] = []
    for prefix in ("--src-", "--dest-"):
        result += [option.replace("--", prefix, 1) if option.startswith("--") else option for option in options]
    return result


def test_skopeo_login_push_inspect_copy_pull_delete(server: RegistryServer, home: Path, host: Host, alice: Registry) -> None:
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


def test_skopeo_carries_a_whole_index(server: RegistryServer, home: Path, host: Host, alice: Registry) -> None:
    address, options = host
    document = index(image(), image(architecture="arm64"))
    write_layout(home / "layout", document)
    skopeo(home, "login", *options, "-u", "alice", "-p", server.password, address)
    name, other = alice.repository(), alice.repository()
    target, copied = f"docker://{address}/{name}:multi", f"docker://{address}/{other}:multi"

    skopeo(home, "copy", "--all", *_both(options), f"oci:{home}/layout:img", target)
    skopeo(home, "copy", "--all", *_both(options), target, copied)
    skopeo(home, "copy", "--all", *_both(options), copied, f"dir:{home}/pulled")

    assert skopeo(home, "inspect", "--raw", *options, copied).encode() == document.raw, "byte for byte what was pushed"
    assert (home / "pulled" / "manifest.json").read_bytes() == document.raw
    for child in document.children:
        assert (home / "pulled" / f"{child.digest.removeprefix('sha256:')}.manifest.json").read_bytes() == child.raw
        assert served_digest(alice, other, child.digest) == child.digest
    skopeo(home, "delete", *options, target)
    skopeo(home, "inspect", "--raw", *options, target, fails=True)
    assert skopeo(home, "inspect", "--raw", *options, copied).encode() == document.raw, "the copy stays"


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
