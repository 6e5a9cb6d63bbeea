"""Paths of /v2/ are matched from the right."""

from __future__ import annotations

import pytest

from registry.v2.routes import Route, match


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2/", Route("ping")),
        ("/v2", Route("ping")),
        ("/v2/token", Route("token")),
        ("/v2/_catalog", Route("catalog")),
        ("/v2/a/manifests/latest", Route("manifest", "a", "latest")),
        ("/v2/a/b/c/manifests/sha256:0", Route("manifest", "a/b/c", "sha256:0")),
        ("/v2/a/blobs/sha256:0", Route("blob", "a", "sha256:0")),
        ("/v2/a/blobs/uploads/", Route("uploads", "a")),
        ("/v2/a/blobs/uploads", Route("uploads", "a")),
        ("/v2/a/blobs/uploads/x1", Route("upload", "a", "x1")),
        ("/v2/a/tags/list", Route("tags", "a")),
        ("/v2/a/referrers/sha256:0", Route("referrers", "a", "sha256:0")),
        ("/v2/a/tags/list/tags/list", Route("tags", "a/tags/list")),
        ("/v2/a/blobs/uploads/manifests/v1", Route("manifest", "a/blobs/uploads", "v1")),
        ("/v2/manifests/manifests/manifests", Route("manifest", "manifests", "manifests")),
        ("/v2/token/manifests/v1", Route("manifest", "token", "v1")),
    ],
)
def test_match(path: str, route: Route) -> None:
    assert match(path) == route


@pytest.mark.parametrize("path", ["/v1/", "/v2/a", "/v2/a/manifests/", "/v2/manifests/x", "/v2/a/tags", "/v2/a/other/x", "/"])
def test_no_route(path: str) -> None:
    assert match(path) is None
