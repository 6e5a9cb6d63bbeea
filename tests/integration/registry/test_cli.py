"""`wharf repo` as a program, over TLS, against a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import image
from tests.integration.registry.server import ROOT, RegistryServer
from tests.integration.registry.test_tokens import basic

Wharf = Callable[..., str]


def signed_in(server: RegistryServer, tmp_path: Path, user: str) -> Wharf:
    """`wharf` with a token of the user: run("repo", "ls", code=0) gives what it said."""
    token = server.python(
        "import django; django.setup()\n"
        "from controlplane.api.actor import actor_of_user\n"
        "from controlplane.users.actions import create_token\n"
        "from controlplane.users.models import User\n"
        f"user = User.objects.get(username={user!r})\n"
        f"print(create_token(actor_of_user(user), user, {tmp_path.name!r})[1])\n"
    ).strip()
    config = tmp_path / f"{user}.json"
    context = {"server": f"https://{server.tls_host}", "ca": server.authority.pem, "token": token, "user": user}
    config.write_text(json.dumps({"current": "default", "contexts": {"default": context}}))
    config.chmod(0o600)

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "controlplane.cli.main", *arguments],
            cwd=ROOT,
            env={**server.environment, "WHARF_CONFIG": str(config)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture
def wharf(server: RegistryServer, tmp_path: Path) -> Wharf:
    return signed_in(server, tmp_path, "alice")


def test_repo_commands(wharf: Any, alice: Registry) -> None:
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
    assert "You lack Job Run" in wharf("repo", "gc", code=4)


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
    assert "You lack Job Run" in wharf("repo", command, code=4)
