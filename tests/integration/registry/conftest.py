"""One server a module: SQLite and one process; what differs by database or process says so in its own test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from registry.queries import standing
from tests.conformance.distribution.client import Registry
from tests.integration.registry.clients import home, host  # noqa: F401  # fixtures of the tests about clients
from tests.integration.registry.crowd import crowd, push, store  # noqa: F401  # fixtures of the tests about people
from tests.integration.registry.server import RegistryServer, registry_server


@pytest.fixture(autouse=True)
def no_undo(settings: Any) -> None:
    """What is deleted is collected at once; the undo window has tests of its own."""
    settings.REGISTRY_UNDO_WINDOW = 0


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """What another test's tables held."""
    standing.forget()


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
