"""`wharf repo`, over TLS, against a running server; once as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import image
from tests.integration.registry.server import RegistryServer
from tests.integration.registry.test_tokens import basic
from tests.wharf import Environment, Ran, as_a_call, as_a_program

Wharf = Callable[..., str]


def signed_in(
    server: RegistryServer, tmp_path: Path, user: str, ran: Callable[[list[str], Environment], Ran] = as_a_call
) -> Wharf:
    """`wharf` with a token of the user: run("repo", "ls", code=0) gives what it said."""
    words = {"username": user, "password": server.password}
    token = httpx.post(f"{server.url}/api/v1/login", json=words, timeout=30).raise_for_status().json()["token"]
    config = tmp_path / f"{user}.json"
    context = {"server": f"https://{server.tls_host}", "ca": server.authority.pem, "token": token, "user": user}
    config.write_text(json.dumps({"current": "default", "contexts": {"default": context}}))
    config.chmod(0o600)

    def run(*arguments: str, code: int = 0) -> str:
        status, output, errors = ran([*arguments], {**server.environment, "WHARF_CONFIG": str(config)})
        assert status == code, output + errors
        return output if code == 0 else errors

    return run


@pytest.fixture
def wharf(server: RegistryServer, tmp_path: Path) -> Wharf:
    return signed_in(server, tmp_path, "alice")


@pytest.fixture
def program(server: RegistryServer, tmp_path: Path) -> Wharf:
    """The same as a process of its own."""
    return signed_in(server, tmp_path, "alice", as_a_program)


def test_repo_commands(program: Wharf, alice: Registry) -> None:
    wharf = program
    name, document = alice.repository(), image()
    assert name in wharf("repo", "create", name, "--description", "from the command line")
    assert "exists already" in wharf("repo", "create", name, code=1)
    push(alice, name, document, "v1")
    alice.push_manifest(name, "v2", document.raw, document.media_type)

    rows = json.loads(wharf("--json", "repo", "ls", name))
    assert [(row["name"], row["tags"], row["visibility"]) for row in rows] == [(name, 2, "private")]
    table = wharf("repo", "tags", name)
    assert all(text in table for text in ("v1", document.digest, "linux/amd64"))
    shown = json.loads(wharf("--json", "repo", "inspect", f"{name}:v1"))
    assert shown["digest"] == document.digest
    assert len(shown["layers"]) == 2
    assert "public" in wharf("repo", "set", name, "--public")

    wharf("repo", "rm", f"{name}:v1")
    assert [row["name"] for row in json.loads(wharf("--json", "repo", "tags", name))] == ["v2"]
    assert len(json.loads(wharf("--json", "repo", "history", name))) == 3
    wharf("repo", "rm", name, "--yes")
    assert "no repository" in wharf("repo", "tags", name, code=3)


def test_collection_is_for_administrators(wharf: Any) -> None:
    assert "No grant gives Job Run" in wharf("repo", "gc", code=4)


def test_people_commands(wharf: Any, alice: Registry, server: RegistryServer, tmp_path: Path) -> None:
    name, first, second = alice.repository(), image(), image()
    wharf("repo", "create", name, "--label", "team=web", "--label", "old=1")
    push(alice, name, first, "v1")
    push(alice, name, second, "v2")
    readme = tmp_path / "README.md"
    readme.write_text("# Shop\n")
    wharf("repo", "set", name, "--label", "tier=front", "--unlabel", "old", "--readme", str(readme))
    rows = json.loads(wharf("--json", "repo", "ls", "--label", "team=web", "--label", "tier", "--sort", "-pushes"))
    assert [(row["name"], row["labels"], row["readme"]) for row in rows] == [(name, {"team": "web", "tier": "front"}, "# Shop\n")]
    assert "team=web tier=front" in wharf("repo", "ls", name.partition("/")[2])

    assert "has read-write" in wharf("repo", "give", name, "read-write", "--user", "bob")
    shown = json.loads(wharf("--json", "repo", "access", name))
    grant = next(row["grant_id"] for row in shown if row["who"] == "bob")
    assert grant in wharf("repo", "access", name)
    assert "Repository Push" in wharf("repo", "access", name, "--user", "bob")
    assert "lacks Repository Push" in wharf("repo", "access", name, "--org", "everyone")
    wharf("repo", "take", name, grant)
    assert "bob" not in wharf("repo", "access", name)
    assert "Say one of" in wharf("repo", "give", name, "read", code=2)

    activity = wharf("repo", "activity", name)
    assert "gave user bob" in activity
    assert "pushed tag v2" in activity
    difference = wharf("repo", "diff", name, "v1", "v2")
    assert "to pull for who has v1" in difference
    assert "0" in wharf("--json", "repo", "where", f"{name}:v1")
    assert name in wharf("repo", "usage") or "Stored" in wharf("repo", "usage")
    assert "Registry View" in wharf("repo", "settings", code=4)


def test_robot_commands(wharf: Any, alice: Registry, server: RegistryServer) -> None:
    name = alice.repository()
    alice.push_blob(name, b"something")
    made = wharf("robot", "create", "ci", "--namespace", "alice", "--right", "alice/*=pull,push", "--days", "7").split()
    assert made[0] == "alice+ci"
    robot = Registry(server.url, made[0], made[1], prefix="alice")
    push(robot, name, image(), "by-robot")
    assert "usable" in wharf("robot", "ls")
    turned = wharf("robot", "rotate", "alice+ci").split()[1]
    assert turned != made[1]

    def tags(secret: str) -> int:
        return Registry(server.url).call("GET", f"/v2/{name}/tags/list", headers=basic("alice+ci", secret)).status

    assert (tags(made[1]), tags(turned)) == (401, 200)
    assert "disabled" in wharf("robot", "set", "alice+ci", "--disable")
    assert tags(turned) == 401
    wharf("robot", "rm", "alice+ci")
    assert "There is no robot" in wharf("robot", "rm", "alice+ci", code=3)
    assert "is no right" in wharf("robot", "create", "x", "--right", "alice", code=2)


@pytest.mark.parametrize("command", ["gc", "scrub", "reconcile", "migrate"])
def test_the_care_of_stores_is_for_administrators(wharf: Any, command: str) -> None:
    assert "No grant gives Job Run" in wharf("repo", command, code=4)
