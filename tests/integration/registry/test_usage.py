"""What is stored for whom adds up, on whatever the repositories hold."""

from __future__ import annotations

from collections import defaultdict

import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.api.actor import SYSTEM
from registry.actions import usage as actions
from registry.actions.repositories import create_repository, delete_repository
from registry.models import Blob, Repository, RepositoryBlob, Usage, UsageSample
from registry.queries import usage
from registry.storage import open_store
from tests.integration.registry import world
from tests.integration.registry.crowd import Crowd

pytestmark = pytest.mark.django_db
NAMES = ["a/one", "a/two", "a/three", "b/one", "b/two", "c/one"]


def fill(links: set[tuple[int, int]], sizes: list[int]) -> None:
    RepositoryBlob.objects.all().delete()
    Blob.objects.all().delete()
    now = timezone.now()
    blobs = [
        Blob.objects.create(digest=f"sha256:{number:064x}", size=size, last_touched=now) for number, size in enumerate(sizes)
    ]
    rows = {name: Repository.objects.get(full_name=name) for name in NAMES}
    RepositoryBlob.objects.bulk_create(
        [
            RepositoryBlob(repository=rows[NAMES[at]], blob=blobs[blob % len(blobs)], touched_at=now)
            for at, blob in sorted({(at, blob % len(blobs)) for at, blob in links})
        ]
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    links=st.sets(st.tuples(st.integers(0, len(NAMES) - 1), st.integers(0, 7)), max_size=30),
    sizes=st.lists(st.integers(0, 10_000), min_size=1, max_size=8),
)
def test_the_sums_add_up_and_are_what_counting_by_hand_says(crowd: Crowd, links: set[tuple[int, int]], sizes: list[int]) -> None:
    for name in NAMES:
        if not Repository.objects.filter(full_name=name).exists():
            create_repository(SYSTEM, name)
    fill(links, sizes)
    found = usage.count()

    held: dict[str, set[int]] = {name: set() for name in NAMES}
    for at, blob in links:
        held[NAMES[at]].add(blob % len(sizes))
    spaces: dict[str, set[int]] = defaultdict(set)
    for name, blobs in held.items():
        spaces[name.partition("/")[0]] |= blobs

    def bytes_of(blobs: set[int]) -> int:
        return sum(sizes[blob] for blob in blobs)

    for name, blobs in held.items():
        others = set().union(*(held[other] for other in NAMES if other != name))
        amount = found.repositories[name]
        assert (amount.stored, amount.unique, amount.blobs) == (bytes_of(blobs), bytes_of(blobs - others), len(blobs))
        assert usage.of_repository(Repository.objects.get(full_name=name)) == amount
    for space, blobs in spaces.items():
        others = set().union(*(spaces[other] for other in spaces if other != space))
        amount = found.namespaces[space]
        assert (amount.stored, amount.unique, amount.blobs) == (bytes_of(blobs), bytes_of(blobs - others), len(blobs))
        assert amount.logical == sum(found.repositories[name].logical for name in NAMES if name.startswith(f"{space}/"))

    everything = set().union(*held.values())
    assert found.registry.stored == found.registry.unique == bytes_of(everything)
    assert found.registry.logical == sum(amount.logical for amount in found.namespaces.values())
    between = everything - {b for s, blobs in spaces.items() for b in blobs if sum(b in other for other in spaces.values()) == 1}
    assert found.registry.stored == sum(amount.unique for amount in found.namespaces.values()) + bytes_of(between)
    assert found.registry.stored + found.unlinked == sum(sizes), "the disk holds what is held and what nobody holds"
    assert found.registry.blobs + found.unlinked_blobs == len(sizes)


def test_a_recount_replaces_the_last_one(crowd: Crowd) -> None:
    for name in NAMES:
        create_repository(SYSTEM, name)
    fill({(0, 0), (3, 0), (1, 1)}, [100, 7, 1000])
    actions.recount()
    Repository.objects.get(full_name="c/one").delete()
    actions.recount()
    rows = {(row.scope, row.name): row for row in Usage.objects.all()}
    assert ("repository", "c/one") not in rows
    whole = rows["registry", ""]
    assert (whole.repositories, whole.logical, whole.stored, whole.shared) == (5, 207, 107, 0)
    assert (rows["namespace", "a"].stored, rows["namespace", "a"].shared) == (107, 100)
    assert [(row.stored, row.unlinked) for row in UsageSample.objects.all()] == [(107, 1000)] * 2


def test_rest_shows_each_what_they_may_see(crowd: Crowd) -> None:
    for name in ("harbour/web", "charlie/own"):
        create_repository(SYSTEM, name)
    actions.recount()

    def names(caller: object) -> list[str]:
        return sorted(row["name"] for row in caller.call("get", "registry/usage"))  # type: ignore[attr-defined]  # a Caller

    assert names(crowd.admin) == ["charlie/own", "harbour/web"]
    assert names(crowd.alice) == ["harbour/web"]
    assert names(crowd.charlie) == ["charlie/own"]
    assert [row["scope"] for row in crowd.admin.call("get", "registry/usage?scope=registry")] == ["registry"]
    for scope in ("registry", "namespace"):
        crowd.alice.call("get", f"registry/usage?scope={scope}", expect=403)
    crowd.nobody.call("get", "registry/usage", expect=401)
    crowd.admin.call("get", "registry/usage?scope=planet", expect=400)


def test_what_is_deleted_takes_room_and_is_no_repository(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "REGISTRY_UNDO_WINDOW", 7 * 86400)
    create_repository(SYSTEM, "admin/gone")
    world.push_blob(open_store(), "admin/gone", b"bytes")
    world.push_manifest("admin/gone", world.manifest_of(b"bytes", []), "1")
    delete_repository(SYSTEM, Repository.objects.get(full_name="admin/gone"))
    actions.recount()
    assert not Usage.objects.filter(name__startswith="~").exists()
    row = Usage.objects.get(scope=Usage.Scope.NAMESPACE, name="admin")
    assert (row.repositories, row.stored) == (0, 5)
