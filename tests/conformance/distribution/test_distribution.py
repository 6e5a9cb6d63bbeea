"""The suite against our server, over HTTP, with tokens and RBAC on; and against docker-registry, where it must fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.distribution import cases  # noqa: F401  # registers them
from tests.conformance.distribution.anchor import BINARY, docker_registry
from tests.conformance.distribution.case import CASES, Case, groups
from tests.conformance.distribution.client import Registry
from tests.integration.registry.server import registry_server
from tests.servers import postgresql

# What docker-registry 2.8 lacks or does wrong (registry by registry, the specification is the same).
RED = {
    "sha512 blobs",
    "sha512 manifests",
    "tag delete",
    "tag param",
    "referrers",
    "out of order",
    "tag list paging",
}
GREEN = {"ping", "missing", "empty"}


@pytest.fixture(scope="module", params=["sqlite, one process", "postgresql, two processes"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    home = tmp_path_factory.mktemp("registry")
    if request.param.startswith("sqlite"):
        with registry_server(home) as server:
            yield Registry(server.url, "alice", server.password, prefix="acme")
            assert "defect" not in server.log(), server.log()
        return
    with postgresql() as url, registry_server(home, database_url=url, workers=2) as server:
        yield Registry(server.url, "alice", server.password, prefix="acme")
        assert "defect" not in server.log(), server.log()


@pytest.mark.parametrize("item", CASES, ids=lambda item: item.id)
def test_case(registry: Registry, item: Case) -> None:
    item.run(registry)


@pytest.mark.skipif(BINARY is None, reason="this machine has no docker-registry (Debian package docker-registry)")
def test_the_suite_can_fail(tmp_path: Path) -> None:
    failed: dict[str, list[str]] = {}
    with docker_registry(tmp_path) as url:
        for item in CASES:
            try:
                item.run(Registry(url))
            except Exception as error:  # noqa: BLE001  # whatever is wrong there is what we want to know
                failed.setdefault(item.group, []).append(f"{item.id}: {type(error).__name__} {str(error)[:200]}")
    assert set(failed) >= RED, f"green on docker-registry, so it proves nothing: {RED - set(failed)}"
    assert not GREEN & set(failed), {group: failed[group] for group in GREEN & set(failed)}
    assert set(groups()) >= RED | GREEN
