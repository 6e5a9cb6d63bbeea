"""What the tests of mirrors do in one line: images here, mirrors, runs."""

from __future__ import annotations

import json
from typing import Any

from agent.protocol.oci import parse_manifest
from controlplane.api.actor import SYSTEM
from controlplane.jobs.models import Job
from registry.actions import manifests, mirrors
from registry.models import Manifest, Mirror
from registry.remote.client import RegistryClient
from registry.storage.store import BlobStore
from tests.integration.registry import world
from tests.integration.registry.running import run_jobs
from tests.integration.registry.test_rest import Caller
from tests.integration.registry.upstream import Upstream

KIND = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def put(name: str, document: dict[str, Any], *tags: str) -> str:
    raw = json.dumps(document).encode()
    parsed = parse_manifest(raw)
    return manifests.put_manifest(SYSTEM, name, parsed, parsed.digest(), tags, []).digest


def image(store: BlobStore, name: str, layers: list[bytes], *tags: str, **more: Any) -> str:
    for blob in (b"{}", *layers):
        world.push_blob(store, name, blob)
    return put(name, {**json.loads(world.manifest_of(b"{}", layers)), **more}, *tags)


def subject(digest: str) -> dict[str, Any]:
    row = Manifest.objects.get(digest=digest)
    return {"subject": {"mediaType": row.media_type, "digest": digest, "size": row.size}}


def mirror(who: Caller, peer: Upstream, direction: str = "push", name: str = "team/web", **more: Any) -> Mirror:
    options = {"repository": "alice/web", "direction": direction, "url": peer.url, "remote_name": name, "on_event": False, **more}
    return mirrors.create_mirror(who.actor, **options)


def run(row: Mirror, *, quick: bool = False) -> Job:
    """One run as the job makes it; the job as it ended."""
    mirrors.ask(row, SYSTEM, quick=quick)
    ran = [job for job in run_jobs() if job.kind == "registry.mirror"]
    row.refresh_from_db()
    return ran[-1]


def log_of(job: Job) -> str:
    return "".join(job.log.values_list("text", flat=True))


def bytes_there(client: RegistryClient, name: str, digest: str) -> bytes:
    return b"".join(client.blob(name, digest))
