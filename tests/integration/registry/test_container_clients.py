"""podman and buildah of Debian, over plain HTTP on loopback and over TLS; each with a storage of its own."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.distribution.client import Registry
from tests.integration.registry.clients import Host, delete, real_image, run, served_digest, served_platforms, write_layout
from tests.integration.registry.server import RegistryServer

Tool = Callable[..., str]


@pytest.fixture(params=["podman", "buildah"])
def tool(request: pytest.FixtureRequest, home: Path) -> Iterator[Tool]:
    """Runs the client; `fails=True` wants it refused and returns the complaint."""
    program = request.param
    if shutil.which(program) is None:
        pytest.skip(f"this machine has no {program} (Debian package {program})")
    short = tempfile.TemporaryDirectory(prefix="wharf-")  # podman refuses a runroot of more than 50 characters
    storage = ["--root", str(home / "root"), "--runroot", short.name, "--storage-driver", "vfs"]
    if program == "podman":
        storage += ["--tmpdir", str(home / "podman"), "--events-backend", "none", "--network-config-dir", str(home / "networks")]

    def call(*arguments: str, fails: bool = False) -> str:
        return run(home, program, *storage, *arguments, fails=fails)

    with short:
        yield call
        call("rmi", "--all", "--force")


def _pull(tool: Tool, home: Path, *arguments: str, fails: bool = False) -> str:
    """The id of what was pulled."""
    printed = tool("pull", "--quiet", "--signature-policy", str(home / "policy.json"), *arguments, fails=fails)
    return printed.strip()


def _push(tool: Tool, home: Path, *arguments: str, fails: bool = False) -> str:
    """The digest that the client believes to have pushed, or its complaint."""
    noted = home / "digest"
    policy = ["--signature-policy", str(home / "policy.json")]
    printed = tool("push", "--quiet", "--digestfile", str(noted), *policy, *arguments, fails=fails)
    return printed if fails else noted.read_text()


def test_login_push_pull_copy_delete(
    tool: Tool, server: RegistryServer, home: Path, host: Host, alice: Registry, charlie: Registry
) -> None:
    address, options = host
    document = real_image()
    write_layout(home / "layout", document)
    name, other = alice.repository(), alice.repository()
    target, copied = f"{address}/{name}:v1", f"{address}/{other}:v1"

    assert "invalid username/password" in tool("login", *options, "-u", "alice", "-p", "wrong", address, fails=True)
    image_id = _pull(tool, home, f"oci:{home}/layout:img")
    assert document.json["config"]["digest"] == f"sha256:{image_id}"
    assert "access to the resource is denied" in _push(tool, home, *options, image_id, target, fails=True)
    tool("login", *options, "-u", "alice", "-p", server.password, address)

    digest = _push(tool, home, *options, image_id, target)
    assert served_digest(alice, name, "v1") == digest
    tool("rmi", "--all", "--force")
    assert _pull(tool, home, *options, f"{address}/{name}@{digest}") == image_id, "the same configuration came back"

    assert _push(tool, home, *options, image_id, copied) == digest
    assert served_digest(alice, other, "v1") == digest
    assert "denied" in _push(tool, home, *options, image_id, f"{address}/{charlie.repository()}:v1", fails=True)

    delete(alice, name, "v1")
    tool("rmi", "--all", "--force")
    assert "manifest unknown" in _pull(tool, home, *options, target, fails=True)
    assert _pull(tool, home, *options, copied) == image_id
    tool("logout", address)
    tool("rmi", "--all", "--force")
    assert "access to the resource is denied" in _pull(tool, home, *options, copied, fails=True)


def test_an_index_of_two_platforms(tool: Tool, server: RegistryServer, home: Path, host: Host, alice: Registry) -> None:
    address, options = host
    name = alice.repository()
    target = f"{address}/{name}:multi"
    tool("login", *options, "-u", "alice", "-p", server.password, address)
    tool("manifest", "create", "both")
    ids = {}
    for architecture in ("amd64", "arm64"):
        write_layout(home / architecture, real_image(architecture))
        ids[architecture] = _pull(tool, home, f"oci:{home / architecture}:img")
        tool("manifest", "add", "both", f"containers-storage:{ids[architecture]}")
    noted = home / "digest"
    policy = ["--signature-policy", str(home / "policy.json")] if "buildah" in tool("--version") else []
    tool("manifest", "push", "--all", "--quiet", *policy, "--digestfile", str(noted), *options, "both", f"docker://{target}")

    assert served_digest(alice, name, "multi") == noted.read_text()
    children = served_platforms(alice, name, "multi")
    assert children.keys() == ids.keys()
    tool("rmi", "--all", "--force")
    for architecture, image_id in ids.items():
        assert _pull(tool, home, *options, "--arch", architecture, target) == image_id
        assert served_digest(alice, name, children[architecture]) == children[architecture]


def test_buildah_builds_what_it_pushes(server: RegistryServer, home: Path, alice: Registry) -> None:
    if shutil.which("buildah") is None:
        pytest.skip("this machine has no buildah (Debian package buildah)")
    storage = ["--root", str(home / "root"), "--runroot", str(home / "run"), "--storage-driver", "vfs"]
    policy = ["--signature-policy", str(home / "policy.json")]
    access = [*policy, "--tls-verify=false", "--creds", f"alice:{server.password}"]
    name = f"{server.host}/{alice.repository()}:built"
    container = run(home, "buildah", *storage, "from", "scratch").strip()
    (home / "hello").write_text("hello from a real build\n")
    run(home, "buildah", *storage, "copy", container, str(home / "hello"), "/hello")
    run(home, "buildah", *storage, "commit", "-q", container, name)
    run(home, "buildah", *storage, "push", *access, name)
    run(home, "buildah", *storage, "rm", container)
    run(home, "buildah", *storage, "rmi", "-a", "-f")
    run(home, "buildah", *storage, "pull", *access, name)
    again = run(home, "buildah", *storage, "from", *policy, "--pull-never", name).strip()
    shown = json.loads(run(home, "buildah", *storage, "inspect", again))
    assert shown["FromImage"] == name
    run(home, "buildah", *storage, "rm", again)
    run(home, "buildah", *storage, "rmi", "-a", "-f")
