"""What killed processes left, told as JSON: `python -m tests.integration.registry.aftermath`. No other process may be at work.

The time-outs of uploads are over, and a collection has run.

    lost        promised by a row, and not in the store byte for byte
    reconciled  rows without bytes, of another size, bytes without a row, and such bytes that are too young to say
    uploads     rows of uploads, and what the store has of uploads
    digests     what the rows say the store holds
    failed      jobs that ended in an error, each as "kind: error"
    promoted    {tag: digest} of every repository that a policy fills
"""

from __future__ import annotations

import json
import os
from datetime import timedelta

import django

os.environ["WHARF_REGISTRY_UPLOAD_TTL"] = "1"
django.setup()

from django.utils import timezone  # noqa: E402  # after setup()

from controlplane.jobs.models import Job, JobState  # noqa: E402  # after setup()
from registry.actions import collect, reconcile  # noqa: E402  # after setup()
from registry.models import Blob, Policy, Tag, Upload  # noqa: E402  # after setup()
from registry.storage import open_store  # noqa: E402  # after setup()
from tests.integration.registry import world  # noqa: E402  # after setup()


def main() -> None:
    store = open_store()
    Upload.objects.update(expires_at=timezone.now() - timedelta(days=1), busy_until=None)  # whoever wrote is dead
    collect.collect(store)
    found = reconcile.reconcile(store)
    targets = [row.options["target"] for row in Policy.objects.filter(kind=Policy.Kind.PROMOTION)]
    tags = Tag.objects.filter(repository__full_name__in=targets)
    failed = Job.objects.filter(state=JobState.ERROR).values_list("kind", "error")
    told = {
        "lost": world.lost_blobs(store),
        "reconciled": [found.missing.count, found.wrong_size.count, found.orphans.count, found.young],
        "uploads": [*Upload.objects.values_list("pk", flat=True), *(session for session, _ in store.uploads())],
        "digests": list(Blob.objects.values_list("digest", flat=True)),
        "failed": [f"{kind}: {error}" for kind, error in failed],
        "promoted": dict(tags.values_list("name", "manifest__digest")),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
