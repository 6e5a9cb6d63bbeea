"""Fixtures of the tests about people: the cast with tokens, a blob store of the test's own, pushes in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.oci import parse_manifest
from controlplane.api.actor import SYSTEM, Actor
from registry.actions.manifests import put_manifest
from registry.details import platforms_of
from registry.models import Repository
from registry.storage import open_store
from tests.cast import Cast, cast
from tests.integration.registry import world
from tests.integration.registry.rest import Caller


@dataclass
class Crowd:
    """harbour is alice's organisation, bob is of its team crane, charlie is a stranger, nobody has no account."""

    cast: Cast
    admin: Caller
    alice: Caller
    bob: Caller
    charlie: Caller
    nobody: Caller


@pytest.fixture
def crowd(db: Any) -> Crowd:
    people = cast()
    callers = [Caller(getattr(people, name)) for name in ("admin", "alice", "bob", "charlie")]
    return Crowd(people, *callers, nobody=Caller())


@pytest.fixture
def store(tmp_path: Path, settings: Any) -> Any:
    settings.BLOB_STORE = str(tmp_path / "blobs")
    return open_store()


Push = Callable[..., str]


@pytest.fixture
def push(store: Any) -> Push:
    """push("ns/name", "tag", config, layers) -> digest. With `raw`, that very manifest; its blobs are those given."""

    def do(
        name: str,
        tag: str = "v1",
        config: bytes = b'{"os":"linux","architecture":"amd64"}',
        layers: tuple[bytes, ...] = (b"layer",),
        raw: bytes = b"",
        actor: Actor = SYSTEM,
    ) -> str:
        for blob in (config, *layers):
            world.push_blob(store, name, blob)
        document = parse_manifest(raw or world.manifest_of(config, layers))
        return put_manifest(actor, name, document, document.digest(), [tag] if tag else [], platforms_of(document)).digest

    return do


def repository(name: str) -> Repository:
    return Repository.objects.select_related("collection", "namespace").get(full_name=name)
