"""GET referrers/D: what points at a manifest. Never 404: a digest that nobody knows simply has no referrers."""

from __future__ import annotations

import json
from typing import Any

from agent.protocol.oci import MEDIA_OCI_INDEX, Digest
from registry.queries import content
from registry.v2 import proxy
from registry.v2.auth import Credentials, admit
from registry.v2.paging import next_page, page_of
from registry.v2.request import Request
from registry.v2.response import Response
from registry.v2.threads import rows

Json = dict[str, Any]

DEFAULT_PAGE = 500
MAX_PAGE = 1000
MAX_BYTES = 4 << 20  # clients read an answer as a manifest, and those end at 4 MiB


async def get(request: Request, name: str, target: str) -> Response:
    digest = Digest.parse(target)
    limit, after = page_of(request, DEFAULT_PAGE, MAX_PAGE)
    # A client's bare "+" of "+json" is decoded as a space, which no media type has (RFC 6838, 4.2).
    artifact_type = (request.parameter("artifactType") or "").replace(" ", "+")
    found = await rows(_found, Credentials.of(request), name, str(digest), artifact_type, after, limit + 1)
    if elsewhere := await proxy.referrers(request, name, digest):
        found = _merged(found, elsewhere, artifact_type, after)
    page, more = _fit(found, limit)
    headers = {"content-type": MEDIA_OCI_INDEX}
    if artifact_type:
        headers["oci-filters-applied"] = "artifactType"
    if more and page:
        parameters = {"n": str(limit), "last": page[-1]["digest"]}
        headers["link"] = next_page(request, parameters | ({"artifactType": artifact_type} if artifact_type else {}))
    index = {"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": page}
    return Response(200, headers, json.dumps(index).encode())


def _found(credentials: Credentials, name: str, digest: str, artifact_type: str, after: str, limit: int) -> list[Json]:
    admit(credentials, name, "pull")
    return content.referrers(name, digest, artifact_type, after, limit)


def _merged(here: list[Json], elsewhere: list[Json], artifact_type: str, after: str) -> list[Json]:
    """In the order of their digests. Ours may be cut off after one more than the page: what lies beyond it is on a later one."""
    wanted = {
        item["digest"]: item for item in elsewhere if item["digest"] > after and artifact_type in ("", item.get("artifactType"))
    }
    return [item for _, item in sorted((wanted | {item["digest"]: item for item in here}).items())]


def _fit(found: list[Json], limit: int) -> tuple[list[Json], bool]:
    """As many as the page and MAX_BYTES take, and whether there are more."""
    page: list[Json] = []
    room = MAX_BYTES - 200
    for descriptor in found[:limit]:
        room -= len(json.dumps(descriptor)) + 2
        if room < 0 and page:
            break
        page.append(descriptor)
    return page, len(found) > len(page)
