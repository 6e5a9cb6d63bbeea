"""What a manifest is: image, index, Helm chart, signature, SBOM, attestation, WebAssembly module, or just an artifact.

Pure: judged by media types and annotations alone, as the tools that push them set these (Helm's OCI support, cosign, Notation,
BuildKit's attestation storage, the WASM OCI artifact layout, ORAS).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.protocol.oci import INDEX_TYPES, MEDIA_DOCKER_CONFIG, MEDIA_OCI_CONFIG, Descriptor, Manifest

IMAGE_CONFIGS = frozenset({MEDIA_OCI_CONFIG, MEDIA_DOCKER_CONFIG})
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_ARCHIVE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
HELM_PROVENANCE = "application/vnd.cncf.helm.chart.provenance.v1.prov"
TITLE = "org.opencontainers.image.title"
PREDICATE = "in-toto.io/predicate-type"
SIGSTORE_PREDICATE = "dev.sigstore.bundle.predicateType"
REFERENCE_TYPE = "vnd.docker.reference.type"  # of a child of an index (BuildKit): "attestation-manifest"
REFERENCE_DIGEST = "vnd.docker.reference.digest"  # which image that child attests

# kind -> what people call it
KINDS = {
    "image": "Image",
    "index": "Index of images",
    "chart": "Helm chart",
    "signature": "Signature",
    "sbom": "SBOM",
    "attestation": "Attestation",
    "wasm": "WebAssembly module",
    "artifact": "Artifact",
}
_SIGNATURES = (
    "application/vnd.cncf.notary.signature",
    "application/vnd.dev.cosign.simplesigning",
    "application/vnd.dev.cosign.artifact.sig",
)
_SBOMS = ("spdx", "cyclonedx", "application/vnd.syft", "application/vnd.dev.cosign.artifact.sbom")
_ATTESTATIONS = ("in-toto", "dsse", "application/vnd.dev.cosign.artifact.att", "slsa")
_WASM = ("application/vnd.wasm", "application/wasm", "application/vnd.module.wasm", "+wasm")


def kind_of(document: Manifest, annotations: Mapping[str, str] | None = None) -> str:
    """One of KINDS. `annotations` are those of the descriptor in its index, when it was found there."""
    if document.is_index:
        return "index"
    if (annotations or {}).get(REFERENCE_TYPE) == "attestation-manifest":
        return "attestation"
    types = [layer.media_type for layer in document.layers]
    config = document.config.media_type if document.config else ""
    if config == HELM_CONFIG:
        return "chart"
    plain = config in IMAGE_CONFIGS and document.referrer_type == config
    found = kind_of_type(document.referrer_type, document.annotations) if not plain else ""
    if found and found != "artifact":
        return found
    of_layers = {kind_of_type(media_type) for media_type in types} - {"artifact"}
    if len(of_layers) == 1:  # cosign's and BuildKit's manifests pass as images; their layers tell
        return of_layers.pop()
    return "image" if plain else "artifact"


def kind_of_type(artifact_type: str, annotations: Mapping[str, str] | None = None) -> str:
    """By the artifact's or a layer's media type alone."""
    text = artifact_type.lower()
    if text.startswith("application/vnd.dev.sigstore.bundle"):
        return "attestation" if (annotations or {}).get(SIGSTORE_PREDICATE) else "signature"
    for kind, marks in (("signature", _SIGNATURES), ("sbom", _SBOMS), ("attestation", _ATTESTATIONS), ("wasm", _WASM)):
        if any(mark in text for mark in marks):
            return kind
    return "chart" if text == HELM_CONFIG else "artifact"


def kind_of_row(media_type: str, artifact_type: str, tag: str = "") -> str:
    """By what a list knows of a manifest without reading it; cosign's tags tell what passes as an image."""
    if media_type in INDEX_TYPES:
        return "index"
    for end, kind in ((".sig", "signature"), (".att", "attestation"), (".sbom", "sbom")):
        if tag.startswith(("sha256-", "sha512-")) and tag.endswith(end):
            return kind
    return "image" if artifact_type in IMAGE_CONFIGS or not artifact_type else kind_of_type(artifact_type)


def is_attestation(child: Descriptor) -> bool:
    return child.annotations.get(REFERENCE_TYPE) == "attestation-manifest"


def files(layers: Iterable[Descriptor], chart: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The layers of an artifact as the files they are: title, media type, size, digest, and what it states of in-toto's.

    Helm gives its archive no title: it is named as `helm pull` names it.
    """
    archive = f"{chart.get('name', 'chart')}-{chart.get('version', '')}.tgz" if chart else ""
    names = {HELM_ARCHIVE: archive, HELM_PROVENANCE: f"{archive}.prov"} if archive else {}
    return [
        {
            "title": layer.annotations.get(TITLE, "") or names.get(layer.media_type, ""),
            "media_type": layer.media_type,
            "size": layer.size,
            "digest": str(layer.digest),
            "predicate": layer.annotations.get(PREDICATE, ""),
        }
        for layer in layers
    ]


def chart(config: Mapping[str, Any]) -> dict[str, Any]:
    """Chart.yaml, which Helm keeps as the config: what people ask of it; anything odd in it is left out."""
    result: dict[str, Any] = {
        name: str(config[key])
        for name, key in (
            ("name", "name"),
            ("version", "version"),
            ("app_version", "appVersion"),
            ("description", "description"),
            ("type", "type"),
        )
        if isinstance(config.get(key), str | int | float)
    }
    result["home"] = str(config.get("home") or "")
    result["dependencies"] = [
        {key: str(item.get(key) or "") for key in ("name", "version", "repository")}
        for item in _list(config, "dependencies")
        if isinstance(item, dict)
    ]
    result["maintainers"] = [
        str(item["name"]) for item in _list(config, "maintainers") if isinstance(item, dict) and item.get("name")
    ]
    result["keywords"] = [word for word in _list(config, "keywords") if isinstance(word, str)]
    return result


def _list(config: Mapping[str, Any], key: str) -> list[Any]:
    found = config.get(key)
    return found if isinstance(found, list) else []


def pull_commands(kind: str, host: str, name: str, target: str) -> list[dict[str, str]]:
    """{"tool", "line"} of each client that takes this kind; `target` is a tag or digest."""
    at = f"@{target}" if ":" in target else f":{target}"
    place = f"{host}/{name}{at}"
    if kind == "chart":
        helm = f"helm pull oci://{host}/{name}" + (f"@{target}" if ":" in target else f" --version {target}")
        return [{"tool": "helm", "line": helm}, {"tool": "oras", "line": f"oras pull {place}"}]
    if kind not in {"image", "index"}:
        oras = {"tool": "oras", "line": f"oras pull {place}"}
        return [oras, {"tool": "skopeo", "line": f"skopeo copy docker://{place} oci:{name.rpartition('/')[2]}"}]
    return [
        {"tool": "docker", "line": f"docker pull {place}"},
        {"tool": "podman", "line": f"podman pull {place}"},
        {"tool": "skopeo", "line": f"skopeo copy docker://{place} oci:{name.rpartition('/')[2]}"},
        {"tool": "wharf", "line": f"wharf service create --name {name.rpartition('/')[2]} {name}{at}"},
    ]
