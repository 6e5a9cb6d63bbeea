"""Moving all blobs from one store to another while both serve: see registry.storage.moving and docs/adr/0020."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field

from django.db import transaction

from agent.protocol.oci import Digest
from controlplane import events
from controlplane.api.actor import SYSTEM, Actor
from registry.actions.reconcile import beginnings, rows_of
from registry.actions.throttle import Throttle
from registry.models import Blob, Upload
from registry.storage.moving import MovingStore
from registry.storage.store import BlobStore, DigestMismatch

THREADS = 4
READ_BYTES = 1 << 20
SMALL = 4 << 20  # bytes of a blob that is put in one call
PASSES = 20
LISTED = 100
Report = Callable[[int, int, str], None]


@dataclass
class Moved:
    """`there`: blobs that are in the first store. `bad` and `missing`: digests that could not be moved.

    `uploads`: still open in the second store. `complete`: the second store can be detached.
    """

    copied: int = 0
    size: int = 0
    there: int = 0
    uploads: int = 0
    bad: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    complete: bool = False

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def move(
    store: MovingStore,
    *,
    rate: float = 0,
    actor: Actor = SYSTEM,
    report: Report = lambda done, total, text: None,
    pause: Callable[[float], None] = time.sleep,
) -> Moved:
    """Copy to the first store every live blob that it lacks, at most `rate` bytes a second; each is hashed on the way.

    Web processes with the old settings may write to the second store for a while: passes follow until one finds nothing. What was
    copied is seen by the listing, so a run that was killed is gone on with by the next.
    """
    done = Moved()
    for number in range(1, PASSES + 1):
        done.there, copied = 0, done.copied
        done.bad.clear()
        done.missing.clear()
        _pass(store, Throttle(rate, pause), done, report, number)
        if done.copied == copied:
            break
    open_uploads = Upload.objects.values_list("pk", flat=True)
    done.uploads = sum(1 for session in open_uploads if store.second.holds(session) and not store.first.holds(session))
    done.complete = not (done.bad or done.missing or done.uploads)
    with transaction.atomic():
        events.record(
            "blobs.moved",
            actor=actor,
            target="registry",
            data={"from": store.second.name, "to": store.first.name, "copied": done.copied, "complete": done.complete},
        )
    return done


def _pass(store: MovingStore, throttle: Throttle, done: Moved, report: Report, number: int) -> None:
    total = Blob.objects.filter(state=Blob.State.LIVE).count()
    # Threads copy, this one does the rows and the waiting: it alone may raise for a cancel.
    with ThreadPoolExecutor(THREADS, thread_name_prefix="registry-move") as pool:
        for beginning in beginnings():
            there = {str(blob.digest): blob.size for blob in store.first.blobs(beginning)}
            rows = [row for row in rows_of(beginning).values() if row.state == Blob.State.LIVE]
            absent = [row for row in rows if there.get(row.digest) != row.size]
            done.there += len(rows) - len(absent)
            report(done.there, total, f"pass {number}: {done.copied} blobs copied")
            _copy_all(store, pool, absent, throttle, done, lambda: report(done.there, total, f"{done.copied} blobs copied"))


def _copy_all(
    store: MovingStore,
    pool: ThreadPoolExecutor,
    rows: Iterable[Blob],
    throttle: Throttle,
    done: Moved,
    tell: Callable[[], None],
) -> None:
    waiting: dict[Future[int | None], Blob] = {}
    todo = list(rows)
    try:
        while todo or waiting:
            while todo and len(waiting) < THREADS:
                row = todo.pop()
                waiting[pool.submit(copy, store.second, store.first, Digest.parse(row.digest), row.size)] = row
            ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                _note(store, waiting.pop(future), future, throttle, done)
            tell()
    finally:
        wait(waiting)


def _note(store: MovingStore, row: Blob, future: Future[int | None], throttle: Throttle, done: Moved) -> None:
    try:
        size = future.result()
    except DigestMismatch:
        if len(done.bad) < LISTED:
            done.bad.append(row.digest)
        return
    if size is not None:
        done.copied += 1
        done.there += 1
        done.size += size
        throttle.took(size)
        return
    needed = Blob.objects.filter(pk=row.pk, state=Blob.State.LIVE).exists()
    if needed and store.size(Digest.parse(row.digest)) is None and len(done.missing) < LISTED:
        done.missing.append(row.digest)


def copy(source: BlobStore, target: BlobStore, digest: Digest, size: int) -> int | None:
    """Copy one blob, visible in `target` when whole and verified; its size, None when `source` has none.

    Raises DigestMismatch when its bytes are spoilt.
    """
    blob = source.open(digest)
    if blob is None:
        return None
    try:
        if blob.size <= SMALL:
            target.put(digest, blob.read_at(0, blob.size))
            return blob.size
        session = f"move-{uuid.uuid4().hex}"
        writer = target.writer(session, 0, digest.algorithm, None)
        try:
            while data := blob.read_at(writer.offset, READ_BYTES):
                writer.write(data)
            target.commit(session, writer, digest)
        except BaseException:
            writer.close()
            target.discard(session)
            raise
        return blob.size
    finally:
        blob.close()
