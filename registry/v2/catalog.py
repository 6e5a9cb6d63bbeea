"""GET /v2/_catalog: Docker's list of repositories, of those that the caller can pull."""

from __future__ import annotations

from controlplane import rbac
from registry.models import Repository
from registry.queries.content import ascii_order
from registry.v2.auth import Credentials, authenticate
from registry.v2.errors import Challenge
from registry.v2.paging import page_of
from registry.v2.request import Request
from registry.v2.response import Response, json_response, next_link
from registry.v2.threads import rows

DEFAULT_PAGE = 100
MAX_PAGE = 1000
SCOPE = "registry:catalog:*"


async def get(request: Request) -> Response:
    limit, after = page_of(request, DEFAULT_PAGE, MAX_PAGE)
    names = await rows(_names, Credentials.of(request), after, limit + 1)
    headers = {}
    if len(names) > limit > 0:
        headers["link"] = next_link("/v2/_catalog", {"n": str(limit), "last": names[limit - 1]})
    return json_response(200, {"repositories": names[:limit]}, headers)


def _names(credentials: Credentials, after: str, limit: int) -> list[str]:
    caller = authenticate(credentials)
    if not caller.presented:
        raise Challenge("the catalog needs a login", SCOPE)
    if caller.claims is not None and not caller.claims.catalog:
        raise Challenge("the token does not allow to list repositories", SCOPE, insufficient=True)
    visible = rbac.visible(caller.actor, Repository.objects.all(), "Repository Pull")
    return list(ascii_order(visible, "full_name", after).values_list("full_name", flat=True)[:limit])
