"""What a manifest is shown as, what refers to it, two of them side by side, and where one runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from agent.protocol.oci import MEDIA_OCI_CONFIG, MEDIA_OCI_INDEX, MEDIA_OCI_LAYER_GZIP, MEDIA_OCI_MANIFEST
from controlplane.api.actor import SYSTEM
from nodes.models import Task
from registry.actions.repositories import create_repository
from registry.artifacts import kind_of_row, pull_commands
from registry.models import Manifest
from tests.cast import PASSWORD
from tests.integration.nodes import fleet
from tests.integration.registry.crowd import Crowd, repository
from tests.integration.registry.world import digest_of

pytestmark = pytest.mark.django_db
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "config": {"Env": ["A=1", "B=2"], "Cmd": ["a"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64, "sha256:" + "2" * 64]},
    "history": [{"created_by": "FROM x"}, {"created_by": "ENV A=1", "empty_layer": True}, {"created_by": "COPY y"}],
}
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def describe(data: bytes, media_type: str, **annotations: str) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": media_type, "digest": str(digest_of(data)), "size": len(data)}
    return {**found, "annotations": annotations} if annotations else found


def manifest(config: bytes, config_type: str, layers: list[dict[str, Any]], **more: Any) -> bytes:
    body = {"schemaVersion": 2, "mediaType": MEDIA_OCI_MANIFEST, "config": describe(config, config_type), "layers": layers}
    return json.dumps({**body, **more}).encode()


@pytest.fixture(autouse=True)
def kinds(crowd: Crowd) -> None:
    create_repository(SYSTEM, "harbour/kinds", visibility="public")


def shown(crowd: Crowd, target: str) -> dict[str, Any]:
    answer: dict[str, Any] = crowd.alice.call("get", f"repositories/{repository('harbour/kinds').pk}/manifests/{target}")
    return answer


ONE = [
    (MEDIA_OCI_CONFIG, MEDIA_OCI_LAYER_GZIP, "", "image"),
    ("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "", "chart"),
    (MEDIA_OCI_CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json", "", "signature"),
    (EMPTY_TYPE, BUNDLE, BUNDLE, "signature"),
    (EMPTY_TYPE, "application/jose+json", "application/vnd.cncf.notary.signature", "signature"),
    (EMPTY_TYPE, "application/spdx+json", "application/spdx+json", "sbom"),
    (EMPTY_TYPE, "application/vnd.cyclonedx+json", "application/vnd.cyclonedx+json", "sbom"),
    (EMPTY_TYPE, "text/spdx+json", "application/vnd.example.sbom", "sbom"),
    (EMPTY_TYPE, "application/vnd.in-toto+json", "application/vnd.in-toto+json", "attestation"),
    (MEDIA_OCI_CONFIG, "application/vnd.in-toto+json", "", "attestation"),
    ("application/vnd.wasm.config.v0+json", "application/wasm", "", "wasm"),
    (EMPTY_TYPE, "application/vnd.example.data", "application/vnd.example.thing", "artifact"),
    ("application/vnd.unknown.config.v1+json", "application/octet-stream", "", "artifact"),
]


@pytest.mark.parametrize(("config_type", "layer_type", "artifact_type", "kind"), ONE)
def test_each_is_called_what_it_is(
    crowd: Crowd, push: Any, config_type: str, layer_type: str, artifact_type: str, kind: str
) -> None:
    more = {"artifactType": artifact_type} if artifact_type else {}
    raw = manifest(EMPTY, config_type, [describe(b"x", layer_type)], **more)
    push("harbour/kinds", "it", EMPTY, (b"x",), raw=raw)
    assert shown(crowd, "it")["kind"] == kind


def test_a_list_tells_kinds_without_reading(crowd: Crowd) -> None:
    assert kind_of_row(MEDIA_OCI_INDEX, "") == "index"
    assert kind_of_row(MEDIA_OCI_MANIFEST, MEDIA_OCI_CONFIG) == "image"
    assert kind_of_row(MEDIA_OCI_MANIFEST, MEDIA_OCI_CONFIG, "sha256-" + "a" * 64 + ".sig") == "signature"
    assert kind_of_row(MEDIA_OCI_MANIFEST, "application/spdx+json") == "sbom"


def test_layers_have_their_instruction_and_both_digests(crowd: Crowd, push: Any) -> None:
    push("harbour/kinds", "v1", json.dumps(CONFIG).encode(), (b"one", b"two"))
    image = shown(crowd, "v1")
    assert [(layer["created_by"], layer["diff_id"], layer["digest"]) for layer in image["layers"]] == [
        ("FROM x", "sha256:" + "1" * 64, str(digest_of(b"one"))),
        ("COPY y", "sha256:" + "2" * 64, str(digest_of(b"two"))),
    ]
    assert image["config_digest"] == str(digest_of(json.dumps(CONFIG).encode()))


@pytest.mark.parametrize(
    "config",
    [
        b"[]",
        b'{"rootfs": 3, "history": {"a": 1}, "config": []}',
        b'{"rootfs": {"diff_ids": "x"}, "history": [3, null]}',
        b'{"config": {"Env": "x", "Labels": [], "ExposedPorts": 7, "Cmd": 3}}',
        b'{"created": {"a": 1}, "author": [1]}',
        b'{"name": {}, "dependencies": [1, {"name": null}], "maintainers": "x", "keywords": 5}',
    ],
)
def test_whatever_stands_in_a_config_breaks_no_page(crowd: Crowd, push: Any, config: bytes) -> None:
    browser = Client()
    browser.post("/login", {"username": "alice", "password": PASSWORD}, secure=True)
    for kind in (MEDIA_OCI_CONFIG, "application/vnd.cncf.helm.config.v1+json"):
        digest = push("harbour/kinds", "odd", config, (b"x",), raw=manifest(config, kind, [describe(b"x", MEDIA_OCI_LAYER_GZIP)]))
        assert shown(crowd, digest)["digest"] == digest
        crowd.alice.call("get", f"repositories/{repository('harbour/kinds').pk}/compare?before=odd&after={digest}")
        assert browser.get(f"/repositories/harbour/kinds/-/{digest}", secure=True).status_code == 200


def test_a_chart_says_what_chart_yaml_says(crowd: Crowd, push: Any) -> None:
    about = {
        "name": "shop", "version": "1.2.3", "appVersion": 7, "description": "x", "maintainers": [{"name": "A"}, {}],
        "dependencies": [{"name": "db", "version": "1.x", "repository": "oci://r.example.com/c"}], "keywords": ["a"],
    }  # fmt: skip
    config = json.dumps(about).encode()
    layers = [describe(b"tgz", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")]
    push("harbour/kinds", "1.2.3", config, (b"tgz",), raw=manifest(config, "application/vnd.cncf.helm.config.v1+json", layers))
    chart = shown(crowd, "1.2.3")["chart"]
    assert (chart["name"], chart["version"], chart["app_version"]) == ("shop", "1.2.3", "7")
    assert chart["dependencies"] == [{"name": "db", "version": "1.x", "repository": "oci://r.example.com/c"}]
    assert chart["maintainers"] == ["A"]
    assert [file["title"] for file in shown(crowd, "1.2.3")["files"]] == ["shop-1.2.3.tgz"]


def test_files_of_an_artifact_have_their_titles(crowd: Crowd, push: Any) -> None:
    layer = describe(b"x", "text/plain", **{"org.opencontainers.image.title": "notes.txt"})
    raw = manifest(EMPTY, EMPTY_TYPE, [layer], artifactType="application/vnd.example.notes", annotations={"by": "me"})
    push("harbour/kinds", "notes", EMPTY, (b"x",), raw=raw)
    found = shown(crowd, "notes")
    assert [(item["title"], item["media_type"]) for item in found["files"]] == [("notes.txt", "text/plain")]
    assert (found["artifact_type"], found["annotations"]) == ("application/vnd.example.notes", {"by": "me"})


def test_an_index_tells_platforms_from_attestations(crowd: Crowd, push: Any) -> None:
    image = push("harbour/kinds", "", json.dumps(CONFIG).encode(), (b"one",))
    layer = describe(b"st", "application/vnd.in-toto+json", **{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"})
    proof = push("harbour/kinds", "", EMPTY, (b"st",), raw=manifest(EMPTY, MEDIA_OCI_CONFIG, [layer]))
    sizes = dict(Manifest.objects.values_list("digest", "size"))
    marks = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image}
    nowhere = {"os": "unknown", "architecture": "unknown"}
    children = [
        {
            "mediaType": MEDIA_OCI_MANIFEST,
            "digest": image,
            "size": sizes[image],
            "platform": {"os": "linux", "architecture": "amd64"},
        },
        {"mediaType": MEDIA_OCI_MANIFEST, "digest": proof, "size": sizes[proof], "platform": nowhere, "annotations": marks},
    ]
    raw = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": children}).encode()
    index = push("harbour/kinds", "multi", EMPTY, (), raw=raw)
    found = shown(crowd, "multi")
    assert found["kind"] == "index"
    inside = sum(Manifest.objects.filter(digest__in=[image, proof]).values_list("total_size", flat=True))
    assert found["total_size"] == inside > 0, "an index is as large as its images"
    tags = crowd.alice.call("get", f"repositories/{repository('harbour/kinds').pk}/tags")
    assert [(tag["name"], tag["size"]) for tag in tags] == [("multi", inside)]
    assert [(child["platform"], child["attests"]) for child in found["images"]] == [("linux/amd64", ""), ("", image)]
    assert shown(crowd, image)["indexes"] == [index]
    stated = shown(crowd, proof)
    assert (stated["kind"], stated["files"][0]["predicate"]) == ("attestation", "https://slsa.dev/provenance/v1")


def test_referrers_by_subject_and_by_cosigns_tag(crowd: Crowd, push: Any) -> None:
    image = push("harbour/kinds", "v1", json.dumps(CONFIG).encode(), (b"one",))
    size = Manifest.objects.get(digest=image).size
    subject = {"mediaType": MEDIA_OCI_MANIFEST, "digest": image, "size": size}
    layers = [describe(b"s", "application/spdx+json")]
    raw = manifest(EMPTY, EMPTY_TYPE, layers, artifactType="application/spdx+json", subject=subject)
    push("harbour/kinds", "", EMPTY, (b"s",), raw=raw)
    layers = [describe(b"c", "application/vnd.dev.cosign.simplesigning.v1+json")]
    raw = manifest(EMPTY, MEDIA_OCI_CONFIG, layers)
    push("harbour/kinds", image.replace(":", "-") + ".sig", EMPTY, (b"c",), raw=raw)
    assert sorted(item["kind"] for item in shown(crowd, "v1")["referrers"]) == ["sbom", "signature"]


def test_two_images_side_by_side(crowd: Crowd, push: Any) -> None:
    push("harbour/kinds", "v1", json.dumps(CONFIG).encode(), (b"one", b"two"))
    changed = {**CONFIG, "config": {"Env": ["A=1", "C=3"], "Cmd": ["b"]}}
    push("harbour/kinds", "v2", json.dumps(changed).encode(), (b"one", b"three!"))
    path = f"repositories/{repository('harbour/kinds').pk}/compare"
    answer = crowd.alice.call("get", f"{path}?before=v1&after=v2")
    assert [[layer["digest"] for layer in answer[key]] for key in ("kept", "added", "removed")] == [
        [str(digest_of(b"one"))],
        [str(digest_of(b"three!"))],
        [str(digest_of(b"two"))],
    ]
    assert answer["to_pull"] == len(b"three!")
    assert [(field["name"], field["before"], field["after"]) for field in answer["config"]] == [
        ("Cmd", "a", "b"),
        ("Env B", "2", None),
        ("Env C", None, "3"),
    ]
    assert crowd.alice.call("get", f"{path}?before=v1&after=v1")["same"] is True
    crowd.alice.call("get", f"{path}?before=v1&after=none", expect=404)
    crowd.alice.call("get", f"{path}?before=v1", expect=404)


def test_where_it_runs_is_told_to_who_may_see_it(crowd: Crowd, push: Any) -> None:
    from nodes import actions

    fleet.image()
    fleet.node("n1")
    actions.create_service(SYSTEM, fleet.spec("web", replicas=2))
    actions.reconcile_round()
    fleet.obey()
    digest = Task.objects.first().image.rpartition("@")[2]  # type: ignore[union-attr]  # two were made
    row = Manifest.objects.select_related("repository").get(digest=digest)
    path = f"repositories/{row.repository_id}/running/{digest}"
    seen = crowd.admin.call("get", path)
    assert [(place["kind"], place["name"], place["node"]) for place in seen["places"]] == [
        ("task", "web.1", "n1"),
        ("task", "web.2", "n1"),
    ]
    assert seen["places"][0]["url"] == "/services/by-name/web"
    assert crowd.charlie.call("get", path) == {"places": [], "hidden": 2}


def test_strangers_see_none_of_it(crowd: Crowd, push: Any) -> None:
    create_repository(SYSTEM, "alice/secret")
    push("alice/secret", "v1")
    path = f"repositories/{repository('alice/secret').pk}"
    for stranger in (crowd.bob, crowd.charlie, crowd.nobody):
        for suffix in ("compare?before=v1&after=v1", "running/v1", "activity", "manifests/v1"):
            stranger.call("get", f"{path}/{suffix}", expect=404)


def test_pull_commands() -> None:
    def tools(kind: str, target: str) -> dict[str, str]:
        return {item["tool"]: item["line"] for item in pull_commands(kind, "r.example.com", "a/b", target)}

    assert tools("image", "v1")["docker"] == "docker pull r.example.com/a/b:v1"
    assert tools("index", "sha256:ab")["podman"] == "podman pull r.example.com/a/b@sha256:ab"
    assert tools("image", "v1")["wharf"] == "wharf service create --name b a/b:v1"
    assert tools("chart", "1.2.3")["helm"] == "helm pull oci://r.example.com/a/b --version 1.2.3"
    assert tools("wasm", "v1")["oras"] == "oras pull r.example.com/a/b:v1"
