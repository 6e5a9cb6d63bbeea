"""Manifests: each data set pushed, listed, read, referred to and deleted."""

from __future__ import annotations

import os

from agent.protocol.oci import MEDIA_OCI_INDEX, MEDIA_OCI_MANIFEST
from tests.conformance.distribution.case import case
from tests.conformance.distribution.cases.blobs import PUSHES, Push, chunked_out_of_order, out_of_order_put
from tests.conformance.distribution.client import Answer, Registry, digest_of
from tests.conformance.distribution.content import DATA_SETS, Document, artifact, image, index

_USUAL: list[Push] = [push for push in PUSHES if push not in {chunked_out_of_order, out_of_order_put}]


def push(registry: Registry, name: str, document: Document, tag: str = "") -> Answer:
    """Blobs by rotating ways, children, then the manifest by digest and by tag."""
    for number, blob in enumerate(document.blobs):
        _USUAL[number % len(_USUAL)](registry, name, blob, digest_of(blob, document.algorithm))
    for child in document.children:
        push(registry, name, child)
    answer = registry.push_manifest(name, document.digest, document.raw, document.media_type)
    assert answer.headers["location"].endswith(f"/manifests/{document.digest}")
    if tag:
        registry.push_manifest(name, tag, document.raw, document.media_type)
    if "subject" in document.json:
        assert answer.headers["oci-subject"] == document.json["subject"]["digest"]
    return answer


def check_manifest(registry: Registry, name: str, target: str, document: Document) -> None:
    for accept in ([("Accept", document.media_type)], [("Accept", "application/json"), ("Accept", document.media_type)], []):
        got = registry.call("GET", f"/v2/{name}/manifests/{target}", headers=accept, expect=200)
        assert got.body == document.raw, "the exact bytes"
        assert got.headers["content-type"] == document.media_type
        assert got.headers["docker-content-digest"] == document.digest
        head = registry.call("HEAD", f"/v2/{name}/manifests/{target}", headers=accept, expect=200)
        assert head.body == b""
        assert head.headers["content-length"] == str(len(document.raw))
        assert head.headers["content-type"] == document.media_type
        assert head.headers["docker-content-digest"] == document.digest


def everything(document: Document) -> list[Document]:
    """The document and its children, in the order of deletion."""
    return [document, *(deeper for child in document.children for deeper in everything(child))]


def check_pull(registry: Registry, name: str, document: Document) -> None:
    for part in everything(document):
        check_manifest(registry, name, part.digest, part)
        for blob in part.blobs:
            got = registry.call("GET", f"/v2/{name}/blobs/{digest_of(blob, part.algorithm)}", expect=200)
            assert got.body == blob


def check_delete(registry: Registry, name: str, document: Document) -> None:
    gone: set[str] = set()
    for part in everything(document):
        if part.digest not in gone:
            gone.add(part.digest)
            registry.call("DELETE", f"/v2/{name}/manifests/{part.digest}", expect=202)
            assert registry.call("GET", f"/v2/{name}/manifests/{part.digest}", expect=404).error_codes() == ["MANIFEST_UNKNOWN"]
            registry.call("HEAD", f"/v2/{name}/manifests/{part.digest}", expect=404)
    for digest in {digest_of(blob, part.algorithm) for part in everything(document) for blob in part.blobs}:
        registry.call("DELETE", f"/v2/{name}/blobs/{digest}", expect=202)
        registry.call("HEAD", f"/v2/{name}/blobs/{digest}", expect=404)


@case("data sets", "push pull delete", *DATA_SETS)
def data_set(registry: Registry, kind: str) -> None:
    name, document = registry.repository(), DATA_SETS[kind]()
    push(registry, name, document, "latest")
    assert registry.call("GET", f"/v2/{name}/tags/list", expect=200).json() == {"name": name, "tags": ["latest"]}
    check_manifest(registry, name, "latest", document)
    check_pull(registry, name, document)
    for digest in document.absent:
        registry.call("HEAD", f"/v2/{name}/blobs/{digest}", expect=404)
    check_delete(registry, name, document)
    assert registry.call("GET", f"/v2/{name}/manifests/latest", expect=404), "a manifest takes its tags along"


@case("sha512 manifests", "image")
def sha512(registry: Registry) -> None:
    name, document = registry.repository(), image(algorithm="sha512")
    push(registry, name, document)
    check_pull(registry, name, document)
    check_delete(registry, name, document)


@case("tag delete", "manifest stays")
def tag_delete(registry: Registry) -> None:
    name, document = registry.repository(), image()
    push(registry, name, document, "one")
    registry.push_manifest(name, "two", document.raw, document.media_type)
    registry.call("DELETE", f"/v2/{name}/manifests/one", expect=202)
    registry.call("HEAD", f"/v2/{name}/manifests/one", expect=404)
    check_manifest(registry, name, "two", document)
    check_manifest(registry, name, document.digest, document)
    assert registry.call("GET", f"/v2/{name}/tags/list", expect=200).json()["tags"] == ["two"]
    registry.call("DELETE", f"/v2/{name}/manifests/one", expect=404)


@case("tag param", "push", "sha256", "sha512")
def tag_param(registry: Registry, algorithm: str) -> None:
    name, document = registry.repository(), image(algorithm=algorithm)
    push(registry, name, document)
    tags = [f"v1.{number}" for number in range(12)]
    query = "&".join(f"tag={tag}" for tag in tags)
    answer = registry.push_manifest(name, f"{document.digest}?{query}", document.raw, document.media_type)
    assert answer.all("oci-tag") == tags
    for tag in tags:
        check_manifest(registry, name, tag, document)
        registry.call("DELETE", f"/v2/{name}/manifests/{tag}", expect=202)
        registry.call("HEAD", f"/v2/{name}/manifests/{tag}", expect=404)


@case("missing", "manifest", "digest", "tag")
def missing_manifest(registry: Registry, kind: str) -> None:
    name = registry.repository()
    registry.push_blob(name, b"x")
    target = digest_of(os.urandom(4)) if kind == "digest" else "nothere"
    assert registry.call("GET", f"/v2/{name}/manifests/{target}", expect=404).error_codes() == ["MANIFEST_UNKNOWN"]
    registry.call("HEAD", f"/v2/{name}/manifests/{target}", expect=404)
    registry.call("DELETE", f"/v2/{name}/manifests/{digest_of(os.urandom(4))}", expect=404)


@case("bad digest", "manifest that is not its digest")
def bad_manifest_digest(registry: Registry) -> None:
    name, document = registry.repository(), image()
    for blob in document.blobs:
        registry.push_blob(name, blob)
    other = digest_of(os.urandom(5))
    answer = registry.call(
        "PUT", f"/v2/{name}/manifests/{other}", document.raw, {"Content-Type": document.media_type}, expect=400
    )
    assert answer.error_codes() == ["DIGEST_INVALID"]
    for digest in (other, document.digest):
        registry.call("HEAD", f"/v2/{name}/manifests/{digest}", expect=404)
    listing = registry.call("GET", f"/v2/{name}/tags/list", expect=(200, 404))
    assert listing.status == 404 or not listing.json()["tags"]


@case("bad digest", "manifest target malformed")
def malformed_target(registry: Registry) -> None:
    name, document = registry.repository(), image()
    push(registry, name, document)
    headers = {"Content-Type": document.media_type}
    registry.call("PUT", f"/v2/{name}/manifests/sha256:baddigeststring", document.raw, headers, expect=400)
    registry.call("GET", f"/v2/{name}/manifests/sha256:baddigeststring", expect=(400, 404))


def _expected(document: Document) -> dict[str, object]:
    body = document.json
    kind = body.get("artifactType") or body.get("config", {}).get("mediaType")
    result = document.descriptor()
    if kind:
        result["artifactType"] = kind
    if body.get("annotations"):
        result["annotations"] = body["annotations"]
    return result


def _listed(registry: Registry, name: str, subject: str, query: str = "") -> tuple[list[dict[str, object]], Answer]:
    answer = registry.call("GET", f"/v2/{name}/referrers/{subject}{query}", expect=200)
    assert answer.headers["content-type"] == MEDIA_OCI_INDEX
    body = answer.json()
    assert (body["schemaVersion"], body["mediaType"]) == (2, MEDIA_OCI_INDEX)
    return sorted(body["manifests"], key=lambda item: str(item["digest"])), answer


def _by_digest(documents: list[Document]) -> list[dict[str, object]]:
    return [_expected(document) for document in sorted(documents, key=lambda item: item.digest)]


@case("referrers", "list, filter, delete")
def referrers(registry: Registry) -> None:
    name, subject = registry.repository(), image()
    push(registry, name, subject, "base")
    sbom, signature = (
        artifact(f"application/vnd.example.{kind}", subject=subject, annotations={"k": "v"}) for kind in ("sbom", "sig")
    )
    plain = image(subject=subject.descriptor())  # without artifactType: shown with its config's media type
    listing = index(artifact("application/vnd.example.c"), subject=subject.descriptor(), annotations={"a": "b"})
    for document in (sbom, signature, plain, listing):
        push(registry, name, document)
    assert _listed(registry, name, subject.digest)[0] == _by_digest([sbom, signature, plain, listing])
    for document in (sbom, signature):
        found, answer = _listed(registry, name, subject.digest, f"?artifactType={document.json['artifactType']}")
        assert found == [_expected(document)]
        assert answer.all("oci-filters-applied") == ["artifactType"]
    assert _listed(registry, name, subject.digest, "?artifactType=application/none")[0] == []
    registry.call("DELETE", f"/v2/{name}/manifests/{sbom.digest}", expect=202)
    assert _listed(registry, name, subject.digest)[0] == _by_digest([signature, plain, listing])


@case("referrers", "before the subject")
def referrers_early(registry: Registry) -> None:
    name, subject = registry.repository(), image()
    early = artifact("application/vnd.example.early", subject=subject)
    push(registry, name, early)
    assert _listed(registry, name, subject.digest)[0] == [_expected(early)]


@case("referrers", "never 404")
def referrers_unknown(registry: Registry) -> None:
    unused = registry.repository()
    assert _listed(registry, unused, digest_of(os.urandom(3)))[0] == []
    registry.call("GET", f"/v2/{unused}/referrers/sha256:short", expect=(400, 404))


@case("referrers", "pages")
def referrers_pages(registry: Registry) -> None:
    name, subject = registry.repository(), image()
    push(registry, name, subject)
    documents = [artifact("application/vnd.example.p", subject=subject, layers=False) for _ in range(5)]
    for document in documents:
        push(registry, name, document)
    seen: list[str] = []
    target = f"/v2/{name}/referrers/{subject.digest}?n=2&artifactType=application/vnd.example.p"
    while target:
        answer = registry.call("GET", target, expect=200)
        seen += [item["digest"] for item in answer.json()["manifests"]]
        link = answer.headers.get("link", "")
        assert not link or 'rel="next"' in link
        target = link.partition("<")[2].partition(">")[0]
    assert seen == sorted(document.digest for document in documents)


@case("referrers", "listed by the tag schema before")
def referrers_of_the_tag_schema(registry: Registry) -> None:
    """Content of a registry without referrers: the artifacts by digest and an index of them under the subject's tag."""
    name, subject = registry.repository(), image()
    push(registry, name, subject, "base")
    documents = [artifact("application/vnd.example.old", subject=subject) for _ in range(2)]
    for document in documents:
        push(registry, name, document)
    algorithm, _, hex_digits = subject.digest.partition(":")
    listing = index(*documents)
    registry.push_manifest(name, f"{algorithm}-{hex_digits[:64]}", listing.raw, listing.media_type)
    assert _listed(registry, name, subject.digest)[0] == _by_digest(documents), "each once, and the index itself is none"


@case("manifest checks", "unknown blob")
def unknown_blob(registry: Registry) -> None:
    name, document = registry.repository(), image()
    for blob in document.blobs[:-1]:
        registry.push_blob(name, blob)
    answer = registry.call(
        "PUT", f"/v2/{name}/manifests/x", document.raw, {"Content-Type": MEDIA_OCI_MANIFEST}, expect=(400, 404)
    )
    assert answer.error_codes() == ["MANIFEST_BLOB_UNKNOWN"]


@case("manifest checks", "unknown child")
def unknown_child(registry: Registry) -> None:
    name = registry.repository()
    registry.push_blob(name, b"x")
    document = index(image())
    answer = registry.call("PUT", f"/v2/{name}/manifests/x", document.raw, {"Content-Type": MEDIA_OCI_INDEX}, expect=(400, 404))
    assert answer.error_codes() == ["MANIFEST_BLOB_UNKNOWN"]
