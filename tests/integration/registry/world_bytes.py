"""Images as bytes, for tests that have no Django of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from agent.protocol.oci import MEDIA_OCI_CONFIG, MEDIA_OCI_LAYER_GZIP, MEDIA_OCI_MANIFEST, Digest


def digest_of(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def manifest_of(config: bytes, layers: Sequence[bytes]) -> bytes:
    def describe(data: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": str(digest_of(data)), "size": len(data)}

    body = {
        "schemaVersion": 2,
        "mediaType": MEDIA_OCI_MANIFEST,
        "config": describe(config, MEDIA_OCI_CONFIG),
        "layers": [describe(layer, MEDIA_OCI_LAYER_GZIP) for layer in layers],
    }
    return json.dumps(body).encode()
