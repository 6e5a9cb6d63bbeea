"""A peer to mirror with, a repository of ours, its owner and a stranger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.users import actions as users
from registry.actions import reactions, repositories
from registry.models import Repository
from registry.remote.client import RegistryClient
from registry.remote.session import Remote
from registry.storage import open_store
from registry.storage.store import BlobStore
from tests.integration.registry.test_rest import Caller
from tests.integration.registry.upstream import Upstream, upstream

PASSWORD = "correct-horse-battery"


@pytest.fixture(autouse=True)
def store(settings: Any, tmp_path: Path) -> BlobStore:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    settings.BLOB_STORE = str(tmp_path / "blobs")
    return open_store()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Upstream]:
    with upstream(tmp_path) as running:
        yield running


@pytest.fixture
def there(peer: Upstream) -> Iterator[RegistryClient]:
    with RegistryClient(Remote(peer.url)) as client:
        yield client


@pytest.fixture
def alice() -> Caller:
    return Caller(users.create_user(SYSTEM, "alice", PASSWORD))


@pytest.fixture
def charlie() -> Caller:
    return Caller(users.create_user(SYSTEM, "charlie", PASSWORD))


@pytest.fixture
def web(alice: Caller) -> Repository:
    made = repositories.create_repository(alice.actor, "alice/web")
    reactions.run()
    return made
