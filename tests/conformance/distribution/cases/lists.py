"""Ping and tag lists."""

from __future__ import annotations

from tests.conformance.distribution.case import case
from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry, digest_of
from tests.conformance.distribution.content import image


@case("ping", "GET /v2/")
def ping(registry: Registry) -> None:
    registry.call("GET", "/v2/", expect=200)


@case("empty", "unused repository")
def unused(registry: Registry) -> None:
    name = registry.repository()
    registry.call("GET", f"/v2/{name}/tags/list", expect=(200, 404))
    assert registry.call("GET", f"/v2/{name}/manifests/latest", expect=404).error_codes()[0] in {
        "MANIFEST_UNKNOWN",
        "NAME_UNKNOWN",
    }
    registry.call("GET", f"/v2/{name}/blobs/{digest_of(b'none')}", expect=404)


TAGS = ["0", "A", "Z", "a", "a.b", "a_b", "latest", "v1", "v1.10", "v1.2", "z"]  # ASCII order, which no language's order is


def _tagged(registry: Registry) -> str:
    name, document = registry.repository(), image()
    push(registry, name, document)
    for tag in reversed(TAGS):
        registry.push_manifest(name, tag, document.raw, document.media_type)
    return name


@case("tag list", "ASCII order")
def order(registry: Registry) -> None:
    name = _tagged(registry)
    assert registry.call("GET", f"/v2/{name}/tags/list", expect=200).json() == {"name": name, "tags": TAGS}


@case("tag list paging", "n and last")
def paging(registry: Registry) -> None:
    name = _tagged(registry)
    assert registry.call("GET", f"/v2/{name}/tags/list?n=4", expect=200).json()["tags"] == TAGS[:4]
    assert registry.call("GET", f"/v2/{name}/tags/list?n=4&last={TAGS[3]}", expect=200).json()["tags"] == TAGS[4:8]
    assert registry.call("GET", f"/v2/{name}/tags/list?last={TAGS[5]}", expect=200).json()["tags"] == TAGS[6:]
    assert registry.call("GET", f"/v2/{name}/tags/list?last=zzz", expect=200).json()["tags"] == []
    middle = registry.call("GET", f"/v2/{name}/tags/list?n=3&last=B", expect=200).json()["tags"]
    assert middle == TAGS[2:5], "last need not exist"


@case("tag list paging", "n=0")
def none(registry: Registry) -> None:
    answer = registry.call("GET", f"/v2/{_tagged(registry)}/tags/list?n=0", expect=200)
    assert answer.json()["tags"] == []
    assert "link" not in answer.headers


@case("tag list paging", "Link walk")
def walk(registry: Registry) -> None:
    name = _tagged(registry)
    target, seen = f"/v2/{name}/tags/list?n=3", []
    while target:
        answer = registry.call("GET", target, expect=200)
        seen += answer.json()["tags"]
        target = answer.headers.get("link", "").partition("<")[2].partition(">")[0]
    assert seen == TAGS
