"""The pages where what is deleted is brought back or forgotten at once."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from registry.actions import manifests
from registry.actions.repositories import create_repository, delete_repository
from registry.models import Repository
from tests.cast import Cast
from tests.integration.console.test_pages import browser
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def window(settings: Any, people: Cast) -> None:
    settings.REGISTRY_UNDO_WINDOW = 7 * 86400


def test_deleted_images_are_forgotten_by_who_may_delete_the_repository() -> None:
    repository = fleet.image()
    digest = repository.manifests.order_by("id")[0].digest
    manifests.delete_manifest(SYSTEM, repository.full_name, digest)
    page = f"/repositories/{repository.full_name}/-/history"
    assert b'data-dialog="forget-images"' in browser("admin").get(page, secure=True).content
    refused = browser("charlie").post(page, {"act": "forget"}, secure=True)
    assert not Event.objects.filter(kind="manifest.forgotten").exists(), refused.content
    browser("admin").post(page, {"act": "forget"}, secure=True)
    event = Event.objects.get(kind="manifest.forgotten")
    assert (event.actor_name, event.data["digests"]) == ("admin", [digest])


def test_a_deleted_repository_is_forgotten_by_whose_namespace_it_was() -> None:
    row = create_repository(SYSTEM, "alice/own")
    delete_repository(SYSTEM, row)
    stranger = browser("charlie").post("/deleted-repositories", {"act": "forget", "repository": row.pk}, secure=True)
    assert stranger.status_code == 404
    assert Repository.everything.filter(pk=row.pk).exists()
    page = browser("alice").get("/deleted-repositories", secure=True).content.decode()
    assert f'data-dialog="forget-{row.pk}"' in page
    browser("alice").post("/deleted-repositories", {"act": "forget", "repository": row.pk}, secure=True)
    assert not Repository.everything.filter(pk=row.pk).exists()
    assert Event.objects.get(kind="repository.forgotten").actor_name == "alice"
