"""What other tools push besides images: pushed here by hand over /v2/, as their own documents have it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
Descriptor = dict[str, Any]


class Pusher:
    """Into one repository, as somebody."""

    def __init__(self, url: str, repository: str, user: str, password: str) -> None:
        self.repository = repository
        self.client = httpx.Client(base_url=f"{url}/v2/{repository}/", auth=(user, password), verify=False, timeout=60)

    def __enter__(self) -> Pusher:
        return self

    def __exit__(self, *failure: object) -> None:
        self.client.close()

    def blob(self, data: bytes, media_type: str, **annotations: str) -> Descriptor:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.client.post(f"blobs/uploads/?digest={digest}", content=data).raise_for_status()
        found: Descriptor = {"mediaType": media_type, "digest": digest, "size": len(data)}
        return {**found, "annotations": annotations} if annotations else found

    def manifest(self, body: dict[str, Any], tag: str = "") -> Descriptor:
        raw = json.dumps({"schemaVersion": 2, **body}).encode()
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        headers = {"Content-Type": body["mediaType"]}
        self.client.put(f"manifests/{tag or digest}", content=raw, headers=headers).raise_for_status()
        return {"mediaType": body["mediaType"], "digest": digest, "size": len(raw)}

    def image(self, arch: str, *steps: str, tag: str = "", env: str = "A=1") -> Descriptor:
        layers = [self.blob(f"{arch} {step}".encode() * 50, LAYER) for step in steps]
        config = {
            "os": "linux", "architecture": arch, "created": "2026-01-02T03:04:05Z",
            "config": {"Cmd": ["serve"], "Env": [env, "PATH=/bin"], "Labels": {"team": "web"}, "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(step.encode()).hexdigest()}" for step in steps]},
            "history": [{"created_by": step, "created": "2026-01-02T03:04:05Z"} for step in steps],
        }  # fmt: skip
        body = {"mediaType": MANIFEST, "config": self.blob(json.dumps(config).encode(), CONFIG), "layers": layers}
        return self.manifest(body, tag)

    def index(self, tag: str) -> tuple[Descriptor, Descriptor]:
        """(index, its image for amd64): two platforms and BuildKit's attestation of the first."""
        amd, arm = self.image("amd64", "FROM scratch", "COPY app /app"), self.image("arm64", "FROM scratch", "COPY app /app")
        statement = self.blob(
            b'{"predicateType":"x"}',
            "application/vnd.in-toto+json",
            **{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"},
        )
        empty = self.blob(b"{}", CONFIG)
        proof = self.manifest({"mediaType": MANIFEST, "config": empty, "layers": [statement]})
        children = [
            {**amd, "platform": {"os": "linux", "architecture": "amd64"}},
            {**arm, "platform": {"os": "linux", "architecture": "arm64"}},
            {
                **proof,
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": amd["digest"],
                },
            },
        ]
        return self.manifest({"mediaType": INDEX, "manifests": children}, tag), amd

    def refer(self, subject: Descriptor, artifact_type: str, data: bytes, media_type: str, title: str) -> Descriptor:
        empty = self.blob(b"{}", "application/vnd.oci.empty.v1+json")
        layer = self.blob(data, media_type, **{"org.opencontainers.image.title": title})
        body = {"mediaType": MANIFEST, "artifactType": artifact_type, "config": empty, "layers": [layer], "subject": subject}
        return self.manifest(body)

    def chart(self, version: str) -> Descriptor:
        about = {
            "name": "shop", "version": version, "appVersion": "7.1", "apiVersion": "v2", "type": "application",
            "description": "The shop and what it needs.", "keywords": ["web", "till"], "maintainers": [{"name": "Team Web"}],
            "dependencies": [{"name": "postgresql", "version": "15.x", "repository": "oci://registry.example.com/charts"}],
        }  # fmt: skip
        config = self.blob(json.dumps(about).encode(), "application/vnd.cncf.helm.config.v1+json")
        layer = self.blob(b"a chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
        return self.manifest({"mediaType": MANIFEST, "config": config, "layers": [layer]}, version)

    def module(self, tag: str) -> Descriptor:
        config = self.blob(b'{"architecture":"wasm","os":"wasip1"}', "application/vnd.wasm.config.v0+json")
        layer = self.blob(b"\0asm", "application/wasm", **{"org.opencontainers.image.title": "filter.wasm"})
        return self.manifest({"mediaType": MANIFEST, "config": config, "layers": [layer]}, tag)
