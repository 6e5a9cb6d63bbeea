"""What the tests of webhooks do in one line."""

from __future__ import annotations

from typing import Any

from controlplane.api.actor import SYSTEM
from registry.actions import manifests, reactions, webhooks
from registry.models import Webhook
from registry.storage import open_store
from tests.integration.registry import world
from tests.integration.registry.running import run_jobs
from tests.integration.registry.test_rest import Caller

LAYER = b"layer"


def push(name: str = "alice/web", tag: str = "v1", config: bytes = b'{"os":"linux","architecture":"arm64"}') -> str:
    store = open_store()
    for blob in (config, LAYER):
        world.push_blob(store, name, blob)
    from agent.protocol.oci import parse_manifest
    from registry.details import platforms_of

    document = parse_manifest(world.manifest_of(config, [LAYER]))
    return manifests.put_manifest(SYSTEM, name, document, document.digest(), [tag], platforms_of(document)).digest


def subscribe(who: Caller, url: str, types: list[str], **more: Any) -> tuple[Webhook, str]:
    return webhooks.create_webhook(who.actor, url=url, types=types, **{"repository": "alice/web", **more})


def react_and_send() -> None:
    reactions.run()
    run_jobs()
