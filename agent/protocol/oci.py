"""OCI names and manifests: reference, digest, descriptor, manifest, index.

Sources: OCI distribution-spec 1.1 (name and tag grammar), OCI image-spec 1.1 (descriptor, manifest, index), and the
"familiar name" rules that Docker clients apply to references without a registry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.protocol.errors import InvalidInput, TooLarge
from agent.protocol.jsontext import unstorable

MEDIA_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MEDIA_OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
MEDIA_OCI_EMPTY = "application/vnd.oci.empty.v1+json"
MEDIA_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MEDIA_DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFEST_TYPES = frozenset({MEDIA_OCI_MANIFEST, MEDIA_DOCKER_MANIFEST})
INDEX_TYPES = frozenset({MEDIA_OCI_INDEX, MEDIA_DOCKER_LIST})
# Layers that a registry need not hold (image-spec, "Non-Distributable Layers"; Docker's foreign layers).
NON_DISTRIBUTABLE = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)

MAX_MANIFEST_BYTES = 4 << 20
MAX_JSON_DEPTH = 32

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"(?P<algorithm>sha256|sha512):(?P<hex>[a-f0-9]+)")
_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")


class NameInvalid(InvalidInput):
    code = "name_invalid"


class TagInvalid(InvalidInput):
    code = "tag_invalid"


class DigestInvalid(InvalidInput):
    code = "digest_invalid"


class ManifestInvalid(InvalidInput):
    code = "manifest_invalid"


class ManifestTooLarge(TooLarge):
    code = "manifest_too_large"


def check_name(name: str) -> str:
    """Return `name` if it is a legal repository name, else raise `NameInvalid`."""
    if len(name) > 255 or not _NAME.fullmatch(name):
        raise NameInvalid(
            f"repository name {name[:80]!r} is not valid: lower-case letters, digits and single separators . _ - in components"
            " divided by '/', at most 255 characters"
        )
    return name


def check_tag(tag: str) -> str:
    """Return `tag` if it is a legal tag, else raise `TagInvalid`."""
    if not _TAG.fullmatch(tag):
        raise TagInvalid(f"tag {tag[:140]!r} is not valid: a letter, digit or '_', then at most 127 of letters, digits and . _ -")
    return tag


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm:hex` over exact bytes; sha256 and sha512 only (image-spec, descriptor, "Registered Algorithms")."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        match = _DIGEST.fullmatch(text)
        if match is None or len(match["hex"]) != _HEX_LENGTH[match["algorithm"]]:
            raise DigestInvalid(f"digest {text[:160]!r} is not valid: sha256: with 64 or sha512: with 128 lower-case hex digits")
        return cls(match["algorithm"], match["hex"])

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True)
class Reference:
    """`[registry/]repository[:tag][@digest]`.

    `registry` is "" when the text names none: the caller decides which one is meant (a cluster's services mean the cluster's
    own registry). A first component is a registry when it has a '.' or ':' or is "localhost", as Docker's clients read it.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        rest, _, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if digest_text else None
        if "@" in text and not digest_text:
            raise DigestInvalid(f"reference {text[:200]!r} ends with '@' but names no digest")
        first, slash, tail = rest.partition("/")
        registry = ""
        if slash and ("." in first or ":" in first or first == "localhost"):
            if not _HOST.fullmatch(first):
                raise NameInvalid(f"registry host {first[:80]!r} is not valid")
            registry, rest = first, tail
        name, colon, tag = rest.rpartition(":")
        if not colon:
            name, tag = rest, ""
        elif not tag:
            raise TagInvalid(f"reference {text[:200]!r} ends with ':' but names no tag")
        return cls(registry, check_name(name), check_tag(tag) if tag else None, digest)

    @property
    def target(self) -> str:
        """What /v2/<name>/manifests/ takes: the digest if pinned, else the tag, else "latest"."""
        return str(self.digest) if self.digest else self.tag or "latest"

    @property
    def familiar(self) -> str:
        """registry/repository[:tag] without the digest."""
        host = f"{self.registry}/" if self.registry else ""
        return f"{host}{self.repository}" + (f":{self.tag}" if self.tag else "")

    def pinned(self, digest: Digest) -> Reference:
        return Reference(self.registry, self.repository, self.tag, digest)

    def __str__(self) -> str:
        return self.familiar + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """media type, digest and size of a blob (image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str]
    platform: Platform | None = None
    artifact_type: str = ""
    urls: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Any, where: str) -> Descriptor:
        if not isinstance(data, dict):
            raise ManifestInvalid(f"{where}: expected a descriptor object")
        size = data.get("size")
        if type(size) is not int or size < 0:
            raise ManifestInvalid(f"{where}.size: expected a non-negative integer")
        try:
            digest = Digest.parse(str(data.get("digest", "")))
        except DigestInvalid as error:
            raise ManifestInvalid(f"{where}.digest: {error.detail}") from error
        platform = data.get("platform")
        return cls(
            media_type=_text(data, "mediaType", where),
            digest=digest,
            size=size,
            annotations=_annotations(data, where),
            platform=_platform(platform) if isinstance(platform, dict) else None,
            artifact_type=_text(data, "artifactType", where),
            urls=tuple(str(url) for url in data.get("urls") or ()),
        )

    @property
    def distributable(self) -> bool:
        return not self.media_type.startswith(NON_DISTRIBUTABLE)

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.artifact_type:
            result["artifactType"] = self.artifact_type
        if self.annotations:
            result["annotations"] = dict(self.annotations)
        if self.platform:
            result["platform"] = {"os": self.platform.os, "architecture": self.platform.architecture}
            if self.platform.variant:
                result["platform"]["variant"] = self.platform.variant
        return result


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest or index; `raw` holds the exact bytes, which alone are stored, served and hashed."""

    raw: bytes
    media_type: str
    artifact_type: str
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    annotations: Mapping[str, str]

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def referrer_type(self) -> str:
        """artifactType as the referrers API shows it: an image without one shows its config's media type."""
        if self.artifact_type or self.is_index or self.config is None:
            return self.artifact_type
        return self.config.media_type

    def digest(self, algorithm: str = "sha256") -> Digest:
        return Digest.of(self.raw, algorithm)

    def select(self, platform: Platform) -> Descriptor:
        """The child of an index that fits `platform` best; raises `ManifestInvalid` listing what there is."""
        fitting = [
            child
            for child in self.manifests
            if child.platform and (child.platform.os, child.platform.architecture) == (platform.os, platform.architecture)
        ]
        exact = [child for child in fitting if child.platform and child.platform.variant == platform.variant]
        if exact or fitting:
            return (exact or fitting)[0]
        offered = ", ".join(str(child.platform) for child in self.manifests if child.platform) or "none"
        raise ManifestInvalid(f"no image for {platform} in this index; it offers {offered}", offered=offered)


def parse_manifest(raw: bytes, content_type: str = "") -> Manifest:
    """Parse and check a manifest or index of OCI or Docker schema 2.

    Refuses: > 4 MiB (`ManifestTooLarge`), invalid UTF-8, duplicate keys, depth > 32, `manifests` beside `layers` or `config`
    (CVE-2021-41190), and a mediaType that differs from `content_type` (without parameters) where both are given.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ManifestTooLarge(f"manifest has {len(raw)} bytes; the limit is {MAX_MANIFEST_BYTES}")
    data = load_json(raw)
    declared = content_type.partition(";")[0].strip()
    inner = _text(data, "mediaType", "manifest")
    if declared and inner and declared != inner:
        raise ManifestInvalid(f"mediaType {inner!r} differs from Content-Type {declared!r}")
    media_type = inner or declared or _guess(data)
    if media_type not in MANIFEST_TYPES | INDEX_TYPES:
        raise ManifestInvalid(f"media type {media_type!r} is not a manifest or index that this registry knows")
    if data.get("schemaVersion") != 2:
        raise ManifestInvalid("schemaVersion must be 2; images of schema 1 have to be pushed anew by a current client")
    return _manifest(raw, data, media_type)


def _manifest(raw: bytes, data: dict[str, Any], media_type: str) -> Manifest:
    is_index = media_type in INDEX_TYPES
    foreign = ("layers", "config") if is_index else ("manifests",)
    for key in foreign:
        if key in data:
            raise ManifestInvalid(
                f"{key!r} does not belong in a {'index' if is_index else 'manifest'}: ambiguous documents are refused"
            )
    if not is_index and "config" not in data:
        raise ManifestInvalid("config: is required in a manifest")
    if "layers" not in data and not is_index:
        raise ManifestInvalid("layers: is required in a manifest (it may be empty)")
    return Manifest(
        raw=raw,
        media_type=media_type,
        artifact_type=_text(data, "artifactType", "manifest"),
        config=None if is_index else Descriptor.from_json(data["config"], "config"),
        layers=_descriptors(data, "layers"),
        manifests=_descriptors(data, "manifests"),
        subject=Descriptor.from_json(data["subject"], "subject") if data.get("subject") is not None else None,
        annotations=_annotations(data, "manifest"),
    )


def load_json(raw: bytes) -> dict[str, Any]:
    """Strict JSON object: UTF-8, no duplicate keys, depth <= 32."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestInvalid(f"not UTF-8 at byte {error.start}") from error
    if _depth(text) > MAX_JSON_DEPTH:
        raise ManifestInvalid(f"nested deeper than {MAX_JSON_DEPTH} levels")
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ManifestInvalid(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ManifestInvalid("expected a JSON object")
    if reason := unstorable(text, data):
        raise ManifestInvalid(f"it holds {reason}")
    return data


def _depth(text: str) -> int:
    # Strings are skipped as whole tokens; on malformed text the figure is meaningless and json.loads refuses right after.
    deepest = depth = 0
    for token in _BRACKETS.finditer(text):
        kind = token.group()[0]
        if kind in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif kind in "}]":
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ManifestInvalid(f"duplicate key {key[:80]!r}")
        result[key] = value
    return result


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        raise ManifestInvalid(f"{where}.{key}: expected a string")
    return value


def _annotations(data: Mapping[str, Any], where: str) -> dict[str, str]:
    value = data.get("annotations") or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ManifestInvalid(f"{where}.annotations: expected an object of strings")
    return value


def _platform(data: Mapping[str, Any]) -> Platform:
    return Platform(str(data.get("os", "")), str(data.get("architecture", "")), str(data.get("variant", "")))


def _descriptors(data: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    value = data.get(key) or []
    if not isinstance(value, list):
        raise ManifestInvalid(f"{key}: expected a list")
    return tuple(Descriptor.from_json(item, f"{key}[{index}]") for index, item in enumerate(value))


def _guess(data: Mapping[str, Any]) -> str:
    return MEDIA_OCI_INDEX if "manifests" in data else MEDIA_OCI_MANIFEST
