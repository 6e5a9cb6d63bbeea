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
