"""`wharf repo policy`, `quota`, `read-only`, `promote` and the time machine, against a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.cli.session import Failure
from registry.cli.frame import size_bytes
from registry.cli.policies import _body, _keep, _rule
from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import image
from tests.integration.registry.server import RegistryServer, registry_server
from tests.integration.registry.test_cli import Wharf, signed_in, wharf  # noqa: F401  # a fixture

NOTHING = {"tags": "", "repositories": "", "into": "", "template": "", "untagged": False, "limit": "", "rules": [], "keeps": []}


def listed(text: str) -> Any:
    return json.loads(text)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """Where what is deleted can be brought back for an hour."""
    home = tmp_path_factory.mktemp("registry")
    with registry_server(home, settings={"REGISTRY_TEST_UNDO_WINDOW": "3600"}) as running:
        yield running


@pytest.fixture
def name(alice: Registry) -> str:
    """A repository with the tags v1 and tmp-1, of different images."""
    name = alice.repository()
    for tag in ("v1", "tmp-1"):
        push(alice, name, image(), tag)
    return name


@pytest.fixture
def wharf_admin(server: RegistryServer, tmp_path: Path) -> Wharf:
    return signed_in(server, tmp_path, "admin")


def test_policies(wharf: Wharf, name: str) -> None:  # noqa: F811  # a fixture
    pruning = ("pruning", name, "--rule", "tag starts_with tmp", "--rule", "updated_at before 1 hour")
    assert {row["tag"]: row["act"] for row in listed(wharf("--json", "repo", "policy", "rehearse", *pruning))} == {
        "v1": "keep",
        "tmp-1": "keep",
    }
    told = wharf("repo", "policy", "rehearse", *pruning[:4])
    assert f"{name}:tmp-1" in told
    assert "tag starts with tmp" in told
    rows = listed(wharf("--json", "repo", "policy", "rehearse", "tag_limit", name, "--limit", "2"))
    assert [row["tag"] for row in rows if row["act"] == "remove"] == ["v1"]

    key = wharf("repo", "policy", "add", *pruning, "--off").strip()
    table = wharf("repo", "policy", "ls", name)
    assert all(text in table for text in (key, "pruning", name, "tag starts_with tmp; updated_at before 1 hour", "off"))
    assert wharf("repo", "policy", "ls", "alice/nothing").count("\n") == 1
    assert listed(wharf("--json", "repo", "policy", "show", key))["rules"][0]["values"] == ["tmp"]
    assert "is on" in wharf("repo", "policy", "set", key, "--on")
    job = wharf("repo", "policy", "run", key, "--dry-run").strip()
    assert listed(wharf("--json", "job", "inspect", job))["kind"] == "registry.policies"
    wharf("repo", "policy", "rm", key)
    assert "no" in wharf("repo", "policy", "show", key, code=3)
    assert "FIELD OPERATOR VALUE" in wharf("repo", "policy", "add", "pruning", name, "--rule", "tag", code=2)
    assert "retention policy has" in wharf("repo", "policy", "add", "retention", name, code=1)


def test_what_is_typed_becomes_what_rest_takes() -> None:
    assert _rule("tag one_of a, b") == {"field": "tag", "operator": "one_of", "values": ["a", "b"]}
    assert _rule("updated_at before 30 days")["values"] == ["30 days"]
    assert _keep("latest_pushed 10 of v*") == {"keep": "latest_pushed", "value": "10", "tags": "v*"}
    assert _keep("always") == {"keep": "always", "value": "", "tags": "*"}
    assert _body("quota", "harbour", {**NOTHING, "limit": "2GB"}) == {
        "kind": "quota",
        "namespace": "harbour",
        "options": {"limit": 2_000_000_000},
    }
    assert _body("promotion", "harbour/web", {**NOTHING, "into": "harbour/prod", "template": "%n-ok"}) == {
        "kind": "promotion",
        "repository": "harbour/web",
        "options": {"target": "harbour/prod", "template": "%n-ok"},
    }
    assert size_bytes("1.5 mb") == 1_500_000
    assert size_bytes("12") == 12
    with pytest.raises(Failure, match="no size"):
        size_bytes("much")


def test_promotion(wharf: Wharf, alice: Registry, name: str) -> None:  # noqa: F811  # a fixture
    target = alice.repository()
    wharf("repo", "create", target)
    assert f"{target}:ok" in wharf("repo", "promote", f"{name}:v1", f"{target}:ok")
    assert "already" in wharf("repo", "promote", f"{name}:v1", f"{target}:ok")
    digests = [listed(wharf("--json", "repo", "inspect", of))["digest"] for of in (f"{name}:v1", f"{target}:ok")]
    assert digests[0] == digests[1]
    assert "no repository" in wharf("repo", "promote", f"{name}:v1", "alice/none", code=3)


def test_the_time_machine(wharf: Wharf, alice: Registry, name: str) -> None:  # noqa: F811  # a fixture
    first = listed(wharf("--json", "repo", "inspect", f"{name}:v1"))["digest"]
    moment = datetime.now(UTC).isoformat()
    second = image()
    push(alice, name, second, "v1")
    moves = listed(wharf("--json", "repo", "history", f"{name}:v1"))
    assert [(row["before"], row["after"]) for row in moves] == [(first, second.digest), ("", first)]
    assert listed(wharf("--json", "repo", "history", f"{name}:v1", "--at", moment)) == [{"tag": "v1", "digest": first}]
    wharf("repo", "rm", f"{name}@{first}")
    table = wharf("repo", "deleted", name)
    assert first in table
    assert first in wharf("repo", "restore", f"{name}:v1", "--at", moment)
    assert second.digest in wharf("repo", "restore", f"{name}:v1", second.digest)
    assert "either the digest or --at" in wharf("repo", "restore", f"{name}:v1", code=2)
    assert "was no tag" in wharf("repo", "restore", f"{name}:v1", "--at", "2001-01-01T00:00:00Z", code=3)

    wharf("repo", "rm", f"{name}@{second.digest}", "--force")
    assert "is back as v1" in wharf("repo", "undelete", f"{name}@{second.digest}")
    wharf("repo", "rm", name, "--yes")
    assert name in wharf("repo", "deleted")
    assert "is back" in wharf("repo", "undelete", name)
    assert "no deleted repository" in wharf("repo", "undelete", name, code=3)
    assert {row["name"] for row in listed(wharf("--json", "repo", "tags", name))} == {"v1", "tmp-1"}


def test_forgetting_now(wharf: Wharf, name: str) -> None:  # noqa: F811  # a fixture
    digest = listed(wharf("--json", "repo", "inspect", f"{name}:v1"))["digest"]
    wharf("repo", "rm", f"{name}@{digest}")
    assert "Forgot the deleted images" in wharf("repo", "forget", name, "--yes")
    assert wharf("repo", "deleted", name).count("\n") == 1, "the heading alone"
    wharf("repo", "rm", name, "--yes")
    assert name in wharf("repo", "forget", name, "--repository", "--yes")
    assert name not in wharf("repo", "deleted")


def test_settings_of_a_repository(wharf: Wharf, name: str) -> None:  # noqa: F811  # a fixture
    changed = listed(wharf("--json", "repo", "set", name, "--immutable", "--tag-limit", "5"))
    assert (changed["immutable_tags"], changed["tag_limit"]) == (True, 5)
    assert "immutable" in wharf("repo", "rm", f"{name}:v1", code=1)


def test_quotas_and_read_only_mode(wharf: Wharf, name: str, server: RegistryServer) -> None:  # noqa: F811  # a fixture
    assert "Registry Update" in wharf("repo", "quota", "set", "alice", "20GB", code=4)
    assert "no quota" in wharf("repo", "quota", "show", "alice", code=3)
    act = "import django; django.setup()\nfrom controlplane.api.actor import SYSTEM\nfrom registry.actions import quotas\n"
    server.python(f"{act}quotas.set_quota(SYSTEM, 'alice', 20 * 10**9)")
    try:
        assert "20.0 GB" in wharf("repo", "quota", "show", "alice")
        assert [row["namespace"] for row in listed(wharf("--json", "repo", "quota", "show"))] == ["alice"]
    finally:
        server.python(f"{act}quotas.remove_quota(SYSTEM, 'alice')")
    assert "Registry Update" in wharf("repo", "read-only", "on", "the store moves", code=4)
    assert "takes pushes" in wharf("repo", "read-only", "status")


def test_what_administrators_switch(wharf: Wharf, wharf_admin: Wharf, name: str) -> None:  # noqa: F811  # a fixture
    assert "may hold 20.0 GB" in wharf_admin("repo", "quota", "set", "alice", "20GB")
    assert "has no quota" in wharf_admin("repo", "quota", "set", "alice", "none")
    try:
        assert "the store moves" in wharf_admin("repo", "read-only", "on", "the store moves")
        assert "the store moves" in wharf("repo", "rm", f"{name}:v1", code=1)
        assert "by admin" in wharf("repo", "read-only", "status")
    finally:
        assert "takes pushes" in wharf_admin("repo", "read-only", "off")
    wharf("repo", "rm", f"{name}:v1")
