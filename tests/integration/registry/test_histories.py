"""Histories of pushes, mounts, deletes, undos, crashes, collections and time: no reachable blob is ever lost.

Each history runs in a transaction that is rolled back, on a store in memory. WHARF_HISTORIES=5000 looks at so many.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.protocol.oci import Digest, parse_manifest
from controlplane.api.actor import SYSTEM
from registry.actions import blobs, collect, leases, manifests, reconcile
from registry.actions.repositories import ensure_repository
from registry.errors import BlobUnknown, ManifestUnknown, Unsupported
from registry.models import Blob, Lease, Manifest, RepositoryBlob
from tests.integration.registry import world
from tests.memory_store import MemoryStore

HISTORIES = int(os.environ.get("WHARF_HISTORIES", "40"))
GRACE, WINDOW, TTL = 7200.0, 3 * 7200.0, 86400.0
NAMES = ("admin/a", "admin/b")
DATA = [f"bytes {number}".encode() for number in range(4)]

name = st.sampled_from(NAMES)
data = st.sampled_from(DATA)
layers = st.lists(data, min_size=1, max_size=3, unique=True)
step = st.one_of(
    st.tuples(st.just("push"), name, layers, st.booleans()),
    st.tuples(st.just("push_blob"), name, data),
    st.tuples(st.just("die_before_row"), data),
    st.tuples(st.just("pull"), name, data),
    st.tuples(st.just("mount"), name, data),
    st.tuples(st.just("delete_manifest"), st.integers(0, 9)),
    st.tuples(st.just("delete_tag"), name),
    st.tuples(st.just("delete_blob"), name, data),
    st.tuples(st.just("undo")),
    st.tuples(st.just("lease"), st.integers(0, 9)),
    st.tuples(st.just("release")),
    st.tuples(st.just("collect")),
    st.tuples(st.just("collect_without_grace")),
    st.tuples(st.just("claim_and_die")),
    st.tuples(st.just("wait"), st.sampled_from([60.0, GRACE / 2, GRACE + 1, 2 * GRACE, TTL + 1])),
)
LEASED: list[tuple[Any, ...]] = [  # chance rarely finds it
    ("push", NAMES[0], DATA[:2], False),
    ("lease", 0),
    ("delete_manifest", 0),
    *2 * [("wait", 2 * GRACE), ("collect",)],
]


class World:
    def __init__(self) -> None:
        self.moved = 0.0
        self.real = timezone.now
        self.store = MemoryStore(lambda: self.now().timestamp())
        self.deleted: list[tuple[str, bytes, float]] = []  # repository, manifest, when
        self.leased: set[str] = set()

    def now(self) -> datetime.datetime:
        return self.real() + datetime.timedelta(seconds=self.moved)

    def wait(self, seconds: float) -> None:
        self.moved += seconds

    def push(self, name: str, parts: list[bytes], collecting: bool) -> None:
        for part in parts:
            digest = world.digest_of(part)
            if not world.head_blob(name, digest) and not world.mount(name, digest, ""):
                world.push_blob(self.store, name, part)
            if collecting:
                self.wait(GRACE / 9)
                self.collect()
        world.push_manifest(name, world.manifest_of(parts[0], parts[1:]), "t")

    def push_blob(self, name: str, part: bytes) -> None:
        world.push_blob(self.store, name, part)

    def die_before_row(self, part: bytes) -> None:
        self.store.put(world.digest_of(part), part)

    def pull(self, name: str, part: bytes) -> None:
        """What a repository shows, it gives."""
        digest = world.digest_of(part)
        if RepositoryBlob.objects.filter(repository__full_name=name, blob__digest=str(digest), blob__state=64).exists():
            found = self.store.open(digest)
            assert found is not None
            assert found.read_at(0, found.size) == part

    def mount(self, name: str, part: bytes) -> None:
        world.mount(name, world.digest_of(part), "")

    def _manifest(self, number: int) -> Manifest | None:
        rows = list(Manifest.objects.select_related("repository").order_by("digest", "repository"))
        return rows[number % len(rows)] if rows else None

    def delete_manifest(self, number: int) -> None:
        row = self._manifest(number)
        if row is not None:
            self.deleted.append((row.repository.full_name, bytes(row.content), self.now().timestamp()))
            manifests.delete_manifest(SYSTEM, row.repository.full_name, row.digest, force=True)

    def delete_tag(self, name: str) -> None:
        with contextlib.suppress(ManifestUnknown):
            manifests.delete_tag(SYSTEM, name, "t", force=True)

    def delete_blob(self, name: str, part: bytes) -> None:
        with contextlib.suppress(BlobUnknown, Unsupported):
            blobs.delete_blob(name, world.digest_of(part))

    def undo(self) -> None:
        """Within the trash window a deleted image comes back whole, wherever its blobs are by now."""
        if not self.deleted:
            return
        name, raw, at = self.deleted.pop()
        repository, document = ensure_repository(SYSTEM, name), parse_manifest(raw)
        needs = [item for item in (*document.layers, document.config) if item is not None]
        back = [blobs.bring_back(self.store, repository.pk, item.digest, item.size, "test") for item in needs]
        if self.now().timestamp() - at < WINDOW:
            assert all(back)
        if all(back):
            world.push_manifest(name, raw, "t")

    def lease(self, number: int) -> None:
        row = self._manifest(number)
        if row is not None:
            leases.lease(row.digest, "task/1")
            held = Lease.objects.values("digest")
            self.leased |= set(Blob.objects.filter(digest__in=held).values_list("digest", flat=True))

    def release(self) -> None:
        leases.release("task/1")
        self.leased.clear()

    def collect(self, grace: float = GRACE) -> None:
        said = collect.candidates(grace)
        before = len(self.store.visible)
        assert before == len(self.store.visible), "a dry run changes nothing"
        done = collect.collect(self.store, grace=grace, trash_window=WINDOW)
        assert (said.links, said.blobs, said.size) == (done.links, done.blobs, done.size)

    def collect_without_grace(self) -> None:
        self.collect(0)

    def claim_and_die(self) -> None:
        collect.claim(GRACE)

    def check(self) -> None:
        assert world.lost_blobs(self.store) == []  # type: ignore[arg-type]  # a BlobStore
        kept = Blob.objects.filter(state=Blob.State.LIVE, digest__in=self.leased)
        assert set(kept.values_list("digest", flat=True)) == self.leased, "what a container needs went"
        assert self.leased <= {str(digest) for digest in self.store.visible}


@pytest.mark.django_db
@pytest.mark.timeout(3600)
@settings(
    max_examples=HISTORIES,
    deadline=None,
    database=None,
    derandomize="WHARF_HISTORIES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(history=LEASED)
@given(history=st.lists(step, min_size=4, max_size=25))
def test_no_history_loses_a_blob(history: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction.atomic(), monkeypatch.context() as clock:
        here = World()
        clock.setattr(timezone, "now", here.now)
        for kind, *arguments in history:
            act: Callable[..., None] = getattr(here, kind)
            act(*arguments)
            here.check()
        _everything_unreachable_goes(here)
        transaction.set_rollback(True)


def _everything_unreachable_goes(here: World) -> None:
    """At the end nothing is left over, in rows or bytes, that no manifest needs."""
    here.release()
    for _ in range(4):
        here.wait(TTL + 1)
        here.collect()
    needed = {
        str(item.digest)
        for row in Manifest.objects.all()
        for document in [parse_manifest(bytes(row.content))]
        for item in (*document.layers, document.config)
        if item is not None
    }
    assert {str(blob.digest) for blob in here.store.blobs()} == needed
    assert set(Blob.objects.values_list("digest", flat=True)) == needed
    assert reconcile.reconcile(here.store).clean


def test_the_checks_can_fail(db: None) -> None:
    """A collector that forgets to look for links is caught."""
    here = World()
    here.push(NAMES[0], DATA[:2], False)
    here.store.trash(Digest.parse(str(world.digest_of(DATA[0]))))
    with pytest.raises(AssertionError):
        here.check()
