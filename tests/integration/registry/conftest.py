"""One server a module: SQLite and one process; what differs by database or process says so in its own test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.distribution.client import Registry
from tests.integration.registry.crowd import crowd, push, store  # noqa: F401  # fixtures of the tests about people
from tests.integration.registry.server import RegistryServer, registry_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("registry")) as running:
        yield running
        assert "defect" not in running.log(), running.log()


@pytest.fixture
def alice(server: RegistryServer) -> Registry:
    """Owner of the organisation acme, and of her own namespace."""
    return Registry(server.url, "alice", server.password, prefix="alice")


@pytest.fixture
def charlie(server: RegistryServer) -> Registry:
    """A stranger."""
    return Registry(server.url, "charlie", server.password, prefix="charlie")
