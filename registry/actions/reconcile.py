"""Store and database compared, both ways: a report; nothing is changed unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from agent.protocol.oci import Digest
from registry.actions import collect, quarantine
from registry.limits import limit
from registry.models import Blob
from registry.storage.hashing import ALGORITHMS
from registry.storage.store import BlobStore, StoredBlob

LISTED = 100  # digests that a report names
STEPS = 512


@dataclass
class Difference:
    """Digests of one kind: all are counted, the first LISTED named."""

    count: int = 0
    size: int = 0
    digests: list[str] = field(default_factory=list)

    def add(self, digest: str, size: int) -> None:
        self.count += 1
        self.size += size
        if len(self.digests) < LISTED:
            self.digests.append(digest)


@dataclass
class Reconciled:
    """`missing`: rows whose bytes are not there. `wrong_size`: bytes of another length than the row says.

    `orphans`: bytes without a row for longer than an upload may take; `young` ones may belong to a push that goes on.
    `quarantined` rows wait for a new push.
    """

    blobs: int = 0
    size: int = 0
    quarantined: int = 0
    young: int = 0
    missing: Difference = field(default_factory=Difference)
    wrong_size: Difference = field(default_factory=Difference)
    orphans: Difference = field(default_factory=Difference)
    repaired: int = 0

    @property
    def clean(self) -> bool:
        return not (self.missing.count or self.wrong_size.count or self.orphans.count)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def beginnings() -> Iterator[str]:
    """The STEPS beginnings of digests by which both sides are listed: "sha256:00" and so on."""
    for algorithm in ALGORITHMS:
        for number in range(256):
            yield f"{algorithm}:{number:02x}"


def rows_of(beginning: str) -> dict[str, Blob]:
    """The rows whose digest begins so. By bounds, which the index serves in every collation: hex digits sort alike in all."""
    last = beginning[:-1] + chr(ord(beginning[-1]) + 1) if beginning[-1] != "9" else f"{beginning[:-1]}a"
    return {row.digest: row for row in Blob.objects.filter(digest__gte=beginning, digest__lt=last)}


def reconcile(
    store: BlobStore, *, repair: bool = False, report: Callable[[int, int, str], None] = lambda done, total, text: None
) -> Reconciled:
    """Compare. With `repair` missing blobs come back from the trash or are quarantined, and orphans go to the trash."""
    done = Reconciled()
    for number, beginning in enumerate(beginnings()):
        # The store first: a push in between adds a row for a file that we did not see, and is looked at again below.
        stored = {str(blob.digest): blob for blob in store.blobs(beginning)}
        rows = rows_of(beginning)
        for digest in rows:
            _compare_row(store, rows[digest], stored.get(digest), repair, done)
        for digest in stored.keys() - rows.keys():
            _compare_file(stored[digest], done)
        report(number + 1, STEPS, f"{done.blobs} blobs compared")
    if repair and done.orphans.count:
        done.repaired += collect.claim_orphans(store)
        while collect.delete_batch(store) is not None:
            report(STEPS, STEPS, "orphans go to the trash")
    return done


def _compare_row(store: BlobStore, row: Blob, found: StoredBlob | None, repair: bool, done: Reconciled) -> None:
    if row.state == Blob.State.QUARANTINED:
        done.quarantined += 1
    if row.state != Blob.State.LIVE:
        return
    done.blobs += 1
    done.size += row.size
    if found is not None and found.size == row.size:
        return
    size = store.size(Digest.parse(row.digest))
    if size == row.size or not Blob.objects.filter(pk=row.pk, state=Blob.State.LIVE).exists():
        return  # pushed or collected while we looked
    (done.missing if size is None else done.wrong_size).add(row.digest, row.size)
    if repair:
        quarantine.judge(store, row.pk)
        done.repaired += 1


def _compare_file(found: StoredBlob, done: Reconciled) -> None:
    if found.age > limit("UPLOAD_TTL"):
        done.orphans.add(str(found.digest), found.size)
    else:
        done.young += 1
