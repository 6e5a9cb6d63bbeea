"""Layers and archives, read in place."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.protocol.oci import MEDIA_OCI_INDEX, MEDIA_OCI_LAYER_GZIP, MEDIA_OCI_LAYER_ZSTD, MEDIA_OCI_MANIFEST, Descriptor
from controlplane.cli.session import Failure
from nodes.cli.archives import read_image, source_of
from nodes.cli.layers import Blob, Part, pack
from nodes.cli.rootfs import image_config, import_rootfs


def tar(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def part(path: Path, data: bytes) -> Part:
    path.write_bytes(b"before" + data + b"after")
    return Part(str(path), 6, len(data))


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def bytes_of(blob: Blob) -> bytes:
    return b"".join(blob.part.pieces())


PLAIN = tar(hello="world" * 1000)


@pytest.mark.parametrize("pack_it", [bytes, lzma.compress, bz2.compress], ids=["plain", "xz", "bzip2"])
def test_a_layer_becomes_gzip_and_equal_layers_stay_equal(tmp_path: Path, pack_it: Any) -> None:
    layer = pack(part(tmp_path / "a", pack_it(PLAIN)))
    again = pack(part(tmp_path / "b", PLAIN))
    packed = bytes_of(layer.blob)
    assert gzip.decompress(packed) == PLAIN
    assert (layer.diff_id, str(layer.blob.descriptor.digest)) == (digest(PLAIN), digest(packed))
    assert layer.blob.descriptor == again.blob.descriptor


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (gzip.compress(PLAIN), MEDIA_OCI_LAYER_GZIP),
        (gzip.compress(PLAIN[:700]) + gzip.compress(PLAIN[700:]) + b"\0\0", MEDIA_OCI_LAYER_GZIP),  # two members, padding
        (zstandard.compress(PLAIN), MEDIA_OCI_LAYER_ZSTD),
    ],
    ids=["gzip", "members", "zstd"],
)
def test_gzip_and_zstd_travel_as_they_are(tmp_path: Path, data: bytes, media_type: str) -> None:
    layer = pack(part(tmp_path / "a", data))
    assert bytes_of(layer.blob) == data
    assert layer.diff_id == digest(PLAIN)
    assert layer.blob.descriptor.media_type == media_type
    assert str(layer.blob.descriptor.digest) == digest(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"no tar at all" * 100, "no tar archive"),
        (b"short", "shorter than one block"),
        (gzip.compress(PLAIN)[:-20], "too early"),
        (gzip.compress(PLAIN)[:40] + b"\xff" * 40, "damaged"),
        (lzma.compress(PLAIN)[:-20], "too early"),
        (zstandard.compress(PLAIN)[:4] + b"\xff" * 60, "damaged"),
    ],
    ids=["text", "short", "gzip-cut", "gzip-damaged", "xz-cut", "zstd-damaged"],
)
def test_what_is_no_layer_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(Failure, match=why):
        pack(part(tmp_path / "a", data))


def test_an_imported_image_is_whole(tmp_path: Path) -> None:
    config = image_config(
        cmd=["httpd"], entrypoint=[], env=["A=b"], workdir="/w", user="33", expose=["80", "53/udp"], volumes=["/v"],
        labels=["x=y"], stop_signal="",
    )  # fmt: skip
    image = import_rootfs(part(tmp_path / "a", PLAIN), config, arch="arm64", comment="for a test")
    documents = {str(blob.descriptor.digest): bytes_of(blob) for blob in image.blobs}
    assert all(digest(data) == name for name, data in documents.items())
    assert image.top.config is not None
    found = json.loads(documents[str(image.top.config.digest)])
    assert found["architecture"] == "arm64"
    assert found["rootfs"] == {"type": "layers", "diff_ids": [digest(PLAIN)]}
    assert found["history"][0]["comment"] == "for a test"
    run = found["config"]
    assert run["Cmd"] == ["httpd"]
    assert run["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    assert run["Env"][0] == "A=b"
    assert run["Env"][1].startswith("PATH=")
    assert "Entrypoint" not in run
    with pytest.raises(Failure, match="--expose"):
        image_config(cmd=[], entrypoint=[], env=(), workdir="", user="", expose=["http"], volumes=(), labels=(), stop_signal="")


class Layout:
    """An OCI layout being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def put(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data), **more}

    def image(self, text: str, **more: Any) -> dict[str, Any]:
        layer = self.put(gzip.compress(tar(file=text), mtime=0), MEDIA_OCI_LAYER_GZIP)
        config = self.put(json.dumps({"os": "linux", "x": text}).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": MEDIA_OCI_MANIFEST, "config": config, "layers": [layer]}
        return self.put(json.dumps(manifest).encode(), MEDIA_OCI_MANIFEST, **more)

    def index(self, *items: dict[str, Any]) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": items}))

    def tar(self) -> Path:
        target = self.path.with_suffix(".tar.gz")
        with tarfile.open(target, "w:gz") as archive:
            archive.add(self.path, ".")
        return target


def named(name: str) -> dict[str, Any]:
    return {"annotations": {"org.opencontainers.image.ref.name": name}}


@pytest.mark.parametrize("packed", [False, True], ids=["directory", "tar.gz"])
def test_a_layout(tmp_path: Path, packed: bool) -> None:
    layout = Layout(tmp_path / "layout")
    layout.index(layout.image("one", **named("one")), layout.image("two", **named("two")))
    source = source_of(str(layout.tar() if packed else layout.path), io.BytesIO())
    image = read_image(source, "two")
    assert image.children == ()
    assert all(digest(bytes_of(blob)) == str(blob.descriptor.digest) for blob in image.blobs)
    assert len(image.blobs) == 2
    with pytest.raises(Failure, match="say --ref with one of one, two"):
        read_image(source)
    with pytest.raises(Failure, match="holds no three; it holds one, two") as caught:
        read_image(source, "three")
    assert caught.value.exit_code == 3


def test_an_index_takes_its_children_along(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    children = [layout.image(name, platform={"os": "linux", "architecture": name}) for name in ("amd64", "arm64")]
    body = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": children}).encode()
    layout.index(layout.put(body, MEDIA_OCI_INDEX))
    image = read_image(source_of(str(layout.path), io.BytesIO()))
    assert [str(child.digest()) for child in image.children] == [child["digest"] for child in children]
    assert image.top.is_index
    (layout.path / "blobs/sha256" / children[1]["digest"][7:]).unlink()
    with pytest.raises(Failure, match="lacks the image for linux/arm64"):
        read_image(source_of(str(layout.path), io.BytesIO()))


def test_a_damaged_layout_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    item = layout.image("one")
    layout.index(item)
    blob = layout.path / "blobs/sha256" / item["digest"][7:]
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(Failure, match="damaged"):
        read_image(source_of(str(layout.path), io.BytesIO()))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Failure, match="neither"):
        read_image(source_of(str(empty), io.BytesIO()))
    with pytest.raises(Failure, match="No such file"):
        source_of(str(tmp_path / "nosuch"), io.BytesIO())


def docker_archive(path: Path, layers: list[bytes], diff_ids: list[str] | None = None) -> Path:
    config = json.dumps({"rootfs": {"diff_ids": diff_ids or [digest(layer) for layer in layers]}}).encode()
    files = {f"{n}/layer.tar": layer for n, layer in enumerate(layers)} | {"config.json": config}
    names = [f"{n}/layer.tar" for n in range(len(layers))]
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": ["web:1"], "Layers": [*names, "link"]}]).encode()
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link")  # docker save of old writes a layer that it has already as a link to it
        link.type, link.linkname = tarfile.SYMTYPE, names[0]
        archive.addfile(link)
    return path


def test_what_docker_save_writes(tmp_path: Path) -> None:
    one, two = tar(a="1"), tar(b="2")
    ids = [digest(one), digest(two), digest(one)]
    path = docker_archive(tmp_path / "a.tar", [one, two], ids)
    image = read_image(source_of(str(path), io.BytesIO()), "web:1")
    assert [layer.media_type for layer in image.top.layers] == [MEDIA_OCI_LAYER_GZIP] * 3
    assert len(image.blobs) == 3, "config, and each layer once"
    found = {str(blob.descriptor.digest): bytes_of(blob) for blob in image.blobs}
    assert [gzip.decompress(found[str(layer.digest)]) for layer in image.top.layers] == [one, two, one]
    from_stdin = read_image(source_of("-", io.BytesIO(path.read_bytes())))
    assert from_stdin.top.raw == image.top.raw
    with pytest.raises(Failure, match="damaged"):
        read_image(source_of(str(docker_archive(tmp_path / "b.tar", [one, two], [digest(one)] * 3)), io.BytesIO()))


def test_descriptors_are_those_of_the_layout(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    item = layout.image("one")
    layout.index(item)
    image = read_image(source_of(str(layout.path), io.BytesIO()))
    assert str(image.top.digest()) == Descriptor.from_json(item, "item").digest.__str__()
