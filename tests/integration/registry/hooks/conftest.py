"""An endpoint, a repository, its owner, a stranger and an administrator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.users import actions as users
from registry.actions import reactions, repositories
from tests.integration.registry.scripted import Says, Scripted, scripted
from tests.integration.registry.test_rest import Caller

PASSWORD = "correct-horse-battery"


@pytest.fixture(autouse=True)
def _loopback(settings: Any, tmp_path: Path) -> None:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    settings.BLOB_STORE = str(tmp_path / "blobs")


@pytest.fixture
def alice() -> Caller:
    return Caller(users.create_user(SYSTEM, "alice", PASSWORD))


@pytest.fixture
def charlie() -> Caller:
    return Caller(users.create_user(SYSTEM, "charlie", PASSWORD))


@pytest.fixture
def admin() -> Caller:
    return Caller(users.create_user(SYSTEM, "root", PASSWORD, is_admin=True))


@pytest.fixture
def web(alice: Caller) -> Any:
    """alice/web, and reactions that have begun."""
    made = repositories.create_repository(alice.actor, "alice/web")
    reactions.run()
    return made


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    with scripted(lambda asked: Says(204)) as server:
        yield server
