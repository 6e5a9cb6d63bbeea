"""A tag limit bounds what a repository holds: the image goes with its evicted tag, unless something else needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from registry.actions import leases, reactions, trash
from registry.actions.repositories import create_repository, update_repository
from registry.models import Manifest, Repository
from tests.integration.registry.test_policies import sign
from tests.integration.registry.test_standing import NAME, push, tags

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def web(tmp_path: Path, settings: Any) -> Repository:
    settings.BLOB_STORE = str(tmp_path / "blobs")
    settings.REGISTRY_UNDO_WINDOW = 7 * 86400
    made = create_repository(SYSTEM, NAME)
    made = update_repository(SYSTEM, made, None, tag_limit=2)
    reactions.run()  # cursors begin with the events after their first run
    return made


def digests() -> set[str]:
    return set(Manifest.objects.filter(repository__full_name=NAME).values_list("digest", flat=True))


def test_the_image_and_its_signature_go_with_the_tag_and_can_come_back(web: Repository) -> None:
    first = push("a", 1)
    signature = sign(NAME, first)
    second, third = push("b", 2), push("c", 3)
    assert reactions.run()["eviction"] == 1
    assert digests() == {second, third}
    gone = Event.objects.filter(kind="manifest.deleted").values_list("data__digest", flat=True)
    assert set(gone) == {first, signature}
    trash.restore_tag(SYSTEM, web, "a", first)
    assert tags() == ["a", "c"], "b made room for it"
    evicted = Event.objects.filter(kind="tag.evicted").order_by("id").values_list("data__tag", flat=True)
    assert list(evicted) == ["a", "b"]
    reactions.run()
    assert second not in digests()
    assert {first, third} <= digests()


def test_what_another_tag_names_or_somebody_holds_stays(web: Repository) -> None:
    first = push("a", 1)
    push("b", 1)
    second = push("c", 2)
    reactions.run()
    assert digests() == {first, second}, "b names it still"
    third = push("d", 3)
    assert tags() == ["c", "d"]
    leases.lease(first, "service/7")
    reactions.run()
    assert digests() == {first, second, third}


def test_a_tag_that_is_pushed_again_at_once_keeps_its_image(web: Repository) -> None:
    first = push("a", 1)
    push("b", 2)
    push("c", 3)
    push("again", 1)
    reactions.run()
    assert first in digests()
