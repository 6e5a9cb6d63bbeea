"""GET tags/list."""

from __future__ import annotations

from registry.errors import RepositoryUnknown
from registry.queries import content
from registry.v2.auth import Credentials, admit
from registry.v2.paging import next_page, page_of
from registry.v2.request import Request
from registry.v2.response import Response, json_response
from registry.v2.threads import rows

MAX_PAGE = 10_000  # without n clients expect the whole list, so this is also the default


async def get(request: Request, name: str) -> Response:
    limit, after = page_of(request, MAX_PAGE, MAX_PAGE)
    names = await rows(_names, Credentials.of(request), name, after, limit + 1)
    headers = {}
    if len(names) > limit > 0:
        headers["link"] = next_page(request, {"n": str(limit), "last": names[limit - 1]})
    return json_response(200, {"name": request.scoped.name if request.scoped else name, "tags": names[:limit]}, headers)


def _names(credentials: Credentials, name: str, after: str, limit: int) -> list[str]:
    admit(credentials, name, "pull")
    found = content.tag_names(name, after, limit)
    if not found and not content.exists(name):
        raise RepositoryUnknown(f"there is no repository {name}")
    return found
