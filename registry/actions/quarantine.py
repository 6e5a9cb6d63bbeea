"""A blob whose bytes are doubted: looked at again, brought back from the trash, or taken out of sight.

A quarantined blob is absent for clients, so whoever pushes the image again uploads it and makes it whole; its references stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from django.db import transaction
from django.db.models import F

from agent.protocol.oci import Digest
from controlplane import events
from controlplane.api.actor import SYSTEM
from registry.models import Blob
from registry.storage.store import BlobStore

READ_BYTES = 1 << 20
NAMES = 20  # repositories that an event lists

GOOD, BAD, MISSING, RESTORED = "good", "bad", "missing", "restored"


def check(store: BlobStore, digest: Digest, read: Callable[[int], None] = lambda count: None) -> str:
    """GOOD, BAD or MISSING, by reading all of it; `read` is told after each piece."""
    blob = store.open(digest)
    if blob is None:
        return MISSING
    try:
        fresh, offset = hashlib.new(digest.algorithm), 0
        while data := blob.read_at(offset, READ_BYTES):
            fresh.update(data)
            offset += len(data)
            read(len(data))
    finally:
        blob.close()
    return GOOD if fresh.hexdigest() == digest.hex else BAD


def judge(store: BlobStore, pk: int) -> str:
    """Look again at a live blob that seemed wrong, and act: GOOD, RESTORED from the trash, BAD or MISSING and quarantined.

    First nobody may rely on it any more, then it is read, then it goes: an upload of the same bytes in between wins.
    """
    with transaction.atomic():
        row = Blob.objects.select_for_update(no_key=True).filter(pk=pk, state=Blob.State.LIVE).first()
        if row is None:
            return GOOD  # it went, or was claimed: not our matter any more
        Blob.objects.filter(pk=pk).update(state=Blob.State.QUARANTINED, ver=F("ver") + 1)
    digest, ver = Digest.parse(row.digest), row.ver + 1
    verdict = check(store, digest)
    if verdict == MISSING and store.restore(digest):
        verdict = RESTORED if check(store, digest) == GOOD else BAD
    with transaction.atomic():
        ours = Blob.objects.select_for_update(no_key=True).filter(pk=pk, state=Blob.State.QUARANTINED, ver=ver).first()
        if ours is None:
            return GOOD  # somebody uploaded it again
        if verdict in (GOOD, RESTORED):
            Blob.objects.filter(pk=pk).update(state=Blob.State.LIVE, ver=F("ver") + 1)
            return verdict
        store.quarantine(digest)
        names = list(ours.links.order_by("repository__full_name").values_list("repository__full_name", flat=True)[:NAMES])
        events.record(
            "blob.quarantined",
            actor=SYSTEM,
            target=f"blob/{row.digest}",
            data={"digest": row.digest, "size": row.size, "found": verdict, "repositories": names},
        )
    return verdict
