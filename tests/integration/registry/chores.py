"""Work without end for a worker that is to be killed: `python -m tests.integration.registry.chores GARBAGE SOURCE TARGET`.

Old blobs without references, as deleted repositories leave them, at most GARBAGE of them; a collection and a look at new events
whenever none waits; and a policy that promotes every tag of SOURCE to TARGET. Prints "collected N" when the Nth collection is
done. On a line "killed" the leases of a dead worker end at once, as they would after their time, and "ended" is printed.
"""

from __future__ import annotations

import select
import sys
from datetime import timedelta

import django

django.setup()

from django.utils import timezone  # noqa: E402  # after setup()

from controlplane.api.actor import SYSTEM  # noqa: E402  # after setup()
from controlplane.jobs import enqueue  # noqa: E402  # after setup()
from controlplane.jobs.declare import discover  # noqa: E402  # after setup()
from controlplane.jobs.models import Job, JobState, Lease  # noqa: E402  # after setup()
from registry.actions import reactions  # noqa: E402  # after setup()
from registry.actions.policies import create_policy  # noqa: E402  # after setup()
from registry.actions.repositories import ensure_repository  # noqa: E402  # after setup()
from registry.models import Blob  # noqa: E402  # after setup()
from registry.storage import open_store  # noqa: E402  # after setup()
from tests.integration.registry import world  # noqa: E402  # after setup()


def main(amount: int, source: str, target: str) -> None:
    discover()
    reactions.run()  # a reaction begins with the events after its first run
    for name in (source, target):
        ensure_repository(SYSTEM, name)
    rules = [{"field": "tag", "operator": "starts_with", "values": ["t"]}]
    create_policy(SYSTEM, "promotion", repository=source, rules=rules, options={"target": target, "template": "%n"})
    store, collected = open_store(), -1
    while True:
        _litter(store, amount)
        for kind in ("registry.gc", "registry.uploads", reactions.JOB):
            enqueue(kind, actor=SYSTEM, dedup_key=kind)
        while Job.objects.filter(kind="registry.gc", state=JobState.QUEUED).exists():
            _listen(0.05)
        _listen(0)
        done = Job.objects.filter(kind="registry.gc", state=JobState.DONE).count()
        if done != collected:
            collected = done
            print(f"collected {done}", flush=True)


def _litter(store: world.BlobStore, amount: int) -> None:
    old = timezone.now() - timedelta(days=1)
    for number in range(amount):
        data = f"garbage {number}".encode()  # pushers push it too: they and the collector meet over it
        digest = world.digest_of(data)
        if not Blob.objects.filter(digest=str(digest)).exists():
            store.put(digest, data)
            Blob.objects.bulk_create([Blob(digest=str(digest), size=len(data), last_touched=old)], ignore_conflicts=True)


def _listen(seconds: float) -> None:
    if not select.select([sys.stdin], [], [], seconds)[0]:
        return
    if sys.stdin.readline() != "killed\n":
        sys.exit()
    past = timezone.now() - timedelta(hours=1)
    Job.objects.filter(state=JobState.RUNNING).update(lease_until=past)
    Lease.objects.update(until=past)
    print("ended", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
