"""What the program of the specification does not ask and clients rely on."""

from __future__ import annotations

import concurrent.futures
import os

from agent.protocol.oci import MAX_MANIFEST_BYTES, MEDIA_OCI_MANIFEST
from tests.conformance.distribution.case import case
from tests.conformance.distribution.cases.manifests import check_manifest, push
from tests.conformance.distribution.client import Registry, digest_of, with_digest
from tests.conformance.distribution.content import image

RESERVED = ["blobs", "manifests", "tags", "uploads", "tags/list", "blobs/uploads", "referrers"]


@case("reserved names", "component", *RESERVED)
def reserved(registry: Registry, component: str) -> None:
    name, document = f"{registry.repository()}/{component}", image()
    push(registry, name, document, "latest")
    check_manifest(registry, name, "latest", document)
    assert registry.call("GET", f"/v2/{name}/tags/list", expect=200).json()["tags"] == ["latest"]


@case("manifest limit", "4 MiB and one byte more")
def limit(registry: Registry) -> None:
    name, document = registry.repository(), image(annotations={"pad": ""})
    push(registry, name, document)
    raw = document.raw[:-1] + b" " * (MAX_MANIFEST_BYTES - len(document.raw)) + b"}"
    assert len(raw) == MAX_MANIFEST_BYTES
    registry.push_manifest(name, "full", raw, MEDIA_OCI_MANIFEST)
    assert registry.call("GET", f"/v2/{name}/manifests/full", expect=200).body == raw
    registry.call("PUT", f"/v2/{name}/manifests/over", raw + b" ", {"Content-Type": MEDIA_OCI_MANIFEST}, expect=413)


@case("content type", "mediaType differs")
def confused_type(registry: Registry) -> None:
    name, document = registry.repository(), image()
    push(registry, name, document)
    other = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    registry.call("PUT", f"/v2/{name}/manifests/x", document.raw, other, expect=400)
    parameters = {"Content-Type": f"{MEDIA_OCI_MANIFEST}; charset=utf-8"}
    registry.call("PUT", f"/v2/{name}/manifests/x", document.raw, parameters, expect=201)


@case("refusals", "method", "PATCH manifests/x", "PUT tags/list", "POST blobs/uploads/some-id", "DELETE referrers/sha256:0")
def methods(registry: Registry, text: str) -> None:
    method, _, path = text.partition(" ")
    answer = registry.call(method, f"/v2/{registry.repository()}/{path}", b"" if method != "DELETE" else None, expect=(404, 405))
    assert answer.error_codes()


@case("refusals", "blob in use")
def blob_in_use(registry: Registry) -> None:
    name, document = registry.repository(), image()
    push(registry, name, document)
    answer = registry.call("DELETE", f"/v2/{name}/blobs/{digest_of(document.blobs[1])}", expect=405)
    assert answer.error_codes() == ["UNSUPPORTED"]
    assert document.digest in answer.json()["errors"][0]["message"]


@case("concurrent", "PATCH against PATCH")
def concurrent_patch(registry: Registry) -> None:
    """Eight first chunks at once: one is accepted, seven get 416, and the blob is that one's."""
    location = registry.start(name := registry.repository())
    chunks = [os.urandom(2 << 20) for _ in range(8)]

    def send(data: bytes) -> int:
        return registry.call("PATCH", location, data, {"Content-Range": f"0-{len(data) - 1}"}, expect=(202, 416)).status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, chunks))
    assert sorted(statuses) == [202] + [416] * 7
    winner = chunks[statuses.index(202)]
    assert registry.call("GET", location, expect=204).headers["range"] == f"0-{len(winner) - 1}"
    registry.call("PUT", with_digest(location, digest_of(winner)), b"", expect=201)
    assert registry.call("GET", f"/v2/{name}/blobs/{digest_of(winner)}", expect=200).body == winner


@case("concurrent", "one tag, many pushers")
def concurrent_tag(registry: Registry) -> None:
    name, documents = registry.repository(), [image() for _ in range(6)]
    for document in documents:
        push(registry, name, document)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda item: registry.push_manifest(name, "race", item.raw, item.media_type), documents))
    got = registry.call("GET", f"/v2/{name}/manifests/race", expect=200)
    assert got.headers["docker-content-digest"] in {document.digest for document in documents}


@case("catalog", "paging")
def catalog(registry: Registry) -> None:
    names = sorted(registry.repository() for _ in range(3))
    for name in names:
        registry.push_blob(name, b"x")
    seen, target = [], f"/v2/_catalog?n=2&last={names[0][:-1]}"
    while target:
        answer = registry.call("GET", target, expect=200)
        seen += answer.json()["repositories"]
        target = answer.headers.get("link", "").partition("<")[2].partition(">")[0]
    assert [name for name in seen if name in names] == names
    assert seen == sorted(seen)
