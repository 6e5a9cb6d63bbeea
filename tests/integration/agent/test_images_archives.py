"""Load, save, import, commit, names, holds and garbage; skopeo, umoci and tar as second opinions."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.images.archive import load
from agent.images.create import commit, import_rootfs
from agent.images.errors import ArchiveInvalid, ImageInUse, ImageInvalid, ImageUnknown, ReferenceAmbiguous
from agent.images.images import ImageStore
from agent.images.save import DOCKER_ARCHIVE, OCI_ARCHIVE, FormatUnknown, save, save_directory
from agent.protocol.oci import Digest, Reference
from agent.storage.errors import DigestMismatch, LayerUnknown
from tests.contract.archives import archive, entry, folder
from tests.contract.graph_driver_suite import BASE, SECOND, signature
from tests.contract.mounting import mounted
from tests.integration.agent.images_fixtures import BUSYBOX, busybox_image, busybox_rootfs, layered_image, node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers keep their owners"),
    pytest.mark.skipif(not BUSYBOX, reason="needs busybox-static"),
]
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
needs_umoci = pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return node(tmp_path / "node")


@pytest.fixture
def other(tmp_path: Path) -> ImageStore:
    return node(tmp_path / "other")


def written(chunks: Iterator[bytes], path: Path) -> str:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
    return str(path)


def view(store: ImageStore, chain: tuple[str, ...], target: Path) -> dict[str, tuple[object, ...]]:
    with mounted(store.driver.view(list(chain)), str(target)):
        return signature(str(target))


# --- save and load ------------------------------------------------------------


@pytest.mark.parametrize("form", [DOCKER_ARCHIVE, OCI_ARCHIVE])
@pytest.mark.parametrize("packed", [False, True])
def test_round_trip(store: ImageStore, other: ImageStore, tmp_path: Path, form: str, packed: bool) -> None:
    first = layered_image(store, "one:v1", 2)
    second = busybox_image(store, "reg.example:5000/two:v2")
    path = written(save(store, ["one:v1", "reg.example:5000/two:v2"], form), tmp_path / "out.tar")
    if packed:
        with open(path, "rb") as source, gzip.open(f"{path}.gz", "wb") as target:
            shutil.copyfileobj(source, target)
        path += ".gz"
    loaded = load(path, other)
    assert [image.id for image in loaded] == [first.id, second.id]
    assert [image.repo_tags for image in loaded] == [("one:v1",), ("reg.example:5000/two:v2",)]
    assert view(other, loaded[0].chain, tmp_path / "m") == view(store, first.chain, tmp_path / "m")
    if form == OCI_ARCHIVE:
        assert loaded[0].manifest == first.manifest


def test_layout_directory(store: ImageStore, other: ImageStore, tmp_path: Path) -> None:
    image = layered_image(store, "one:v1", 1)
    save_directory(store, ["one:v1"], str(tmp_path / "layout"))
    assert load(str(tmp_path / "layout"), other)[0].manifest == image.manifest


def test_a_directory_is_not_left_by_a_link(other: ImageStore, store: ImageStore, tmp_path: Path) -> None:
    image = busybox_image(store, "one:v1")
    save_directory(store, ["one:v1"], str(tmp_path / "layout"))
    blob = tmp_path / "layout" / "blobs" / "sha256" / Digest.parse(image.id).hex
    shutil.move(blob, tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveInvalid):
        load(str(tmp_path / "layout"), other)


def test_old_docker_archives_link_repeated_layers(other: ImageStore, tmp_path: Path) -> None:
    layer = archive(entry("a", b"a"))
    digest = str(Digest.of(layer))
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest] * 2}}).encode()
    link = tarfile.TarInfo("two/layer.tar")
    link.type, link.linkname = tarfile.SYMTYPE, "../one/layer.tar"
    rows = [{"Config": "c.json", "RepoTags": ["old:v1"], "Layers": ["one/layer.tar", "two/layer.tar"]}]
    data = archive(
        entry("c.json", config), entry("one/layer.tar", layer), (link, b""), entry("manifest.json", json.dumps(rows).encode())
    )
    (tmp_path / "old.tar").write_bytes(data)
    image = load(str(tmp_path / "old.tar"), other)[0]
    assert image.repo_tags == ("old:v1",)
    assert len(image.chain) == 2


@needs_skopeo
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_we_save_and_we_what_it_writes(store: ImageStore, other: ImageStore, tmp_path: Path, form: str) -> None:
    image = layered_image(store, "one:v1", 2)
    path = written(save(store, ["one:v1"], form), tmp_path / "ours.tar")
    subprocess.run(
        ["skopeo", "copy", f"{form}:{path}", f"docker-archive:{tmp_path}/theirs.tar:two:v2"], check=True, capture_output=True
    )
    loaded = load(str(tmp_path / "theirs.tar"), other)[0]
    assert loaded.id == image.id
    # skopeo writes the name in full; which registry a bare name means is not ours to say, so it stays so.
    assert [name.endswith("/two:v2") for name in loaded.repo_tags] == [True]


REFUSED = {
    "no image archive": archive(entry("hello", b"")),
    "no tar": b"hello" * 200,
    "manifest without its configuration": archive(entry("manifest.json", b'[{"Config":"c.json","RepoTags":null,"Layers":[]}]')),
    "empty list": archive(entry("manifest.json", b"[]")),
    "layout without images": archive(entry("oci-layout", b"{}"), entry("index.json", b'{"schemaVersion":2,"manifests":[]}')),
    "cut": archive(entry("manifest.json", b"[" * 2000))[:1000],
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_archives_are_refused(store: ImageStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.tar").write_bytes(REFUSED[name])
    with pytest.raises(ArchiveInvalid):
        load(str(tmp_path / "bad.tar"), store)
    assert store.list() == []


def test_a_layer_that_is_not_the_configurations_is_refused(store: ImageStore, tmp_path: Path) -> None:
    diff_id = "sha256:" + "0" * 64
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
    rows = b'[{"Config":"c.json","RepoTags":["x:v1"],"Layers":["l.tar"]}]'
    data = archive(entry("c.json", config), entry("l.tar", archive(entry("a"))), entry("manifest.json", rows))
    (tmp_path / "bad.tar").write_bytes(data)
    with pytest.raises(DigestMismatch):
        load(str(tmp_path / "bad.tar"), store)
    assert store.list() == []
    store.gc()
    assert list(store.content.digests()) == []


def test_unknown_names_and_forms(store: ImageStore) -> None:
    with pytest.raises(ImageUnknown):
        save(store, ["nothing"])
    with pytest.raises(FormatUnknown):
        save(store, [], "zip")


# --- import and commit ------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["plain", "gzip", "bzip2", "xz"])
def test_import(store: ImageStore, tmp_path: Path, pack: object) -> None:
    changes = [
        "CMD echo hi",
        'ENTRYPOINT ["/bin/sh", "-c"]',
        "ENV A=1 B='two words'",
        "LABEL x=y",
        "EXPOSE 80/udp",
        "WORKDIR /tmp",
    ]
    data = pack(busybox_rootfs())  # type: ignore[operator]  # one of the four above
    image = import_rootfs(io.BytesIO(data), Reference.parse("made:v1"), store=store, changes=changes, message="by hand")
    assert image.run_config == {
        "Cmd": ["/bin/sh", "-c", "echo hi"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Env": ["A=1", "B=two words"],
        "Labels": {"x": "y"},
        "ExposedPorts": {"80/udp": {}},
        "WorkingDir": "/tmp",
    }
    assert image.config["history"][0]["comment"] == "by hand"
    assert "bin/busybox" in view(store, image.chain, tmp_path / "m")


def test_a_bad_change_imports_nothing(store: ImageStore) -> None:
    with pytest.raises(ImageInvalid, match="RUN"):
        import_rootfs(io.BytesIO(busybox_rootfs()), None, store=store, changes=["RUN rm -rf /"])
    assert list(store.content.digests()) == []


def test_commit(store: ImageStore, tmp_path: Path) -> None:
    parent = busybox_image(store, "base:v1")
    with mounted(store.driver.prepare("box", list(parent.chain)), str(tmp_path / "m")):
        (tmp_path / "m" / "etc" / "new").write_text("new")
        (tmp_path / "m" / "etc" / "passwd").unlink()
        expected = signature(str(tmp_path / "m"))
    image = commit("box", Reference.parse("made:v1"), store=store, parent=parent, changes=["CMD /x"], author="Alice", message="m")
    assert view(store, image.chain, tmp_path / "m") == expected
    assert image.chain[1:] == parent.chain
    assert image.config["author"] == "Alice"
    assert image.run_config["Env"] == ["PATH=/bin"]
    assert image.run_config["Cmd"] == ["/bin/sh", "-c", "/x"]
    assert len(image.config["history"]) == 2


@needs_umoci
def test_umoci_unpacks_our_layers_to_the_same_tree(store: ImageStore, tmp_path: Path) -> None:
    """Whiteouts, hard links, xattrs, fifos and sparse files through commit, save and somebody else's extraction."""
    base = import_rootfs(io.BytesIO(BASE), Reference.parse("x:base"), store=store)
    target = tmp_path / "m"
    with mounted(store.driver.prepare("box", list(base.chain)), str(target)):
        (target / "etc" / "gone").unlink()
        shutil.rmtree(target / "opt")
        (target / "opt").mkdir()
        (target / "opt" / "fresh").write_text("x")
        os.setxattr(target / "opt" / "fresh", "user.k", b"v")
        os.link(target / "opt" / "fresh", target / "opt" / "second")
        os.mkfifo(target / "fifo")
        with (target / "sparse").open("wb") as file:
            file.truncate(2 << 20)
            file.seek(1 << 20)
            file.write(b"middle")
        expected = signature(str(target))
    commit("box", Reference.parse("x:top"), store=store, parent=base)
    save_directory(store, ["x:top"], str(tmp_path / "layout"))
    index = json.loads((tmp_path / "layout" / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "top"}
    (tmp_path / "layout" / "index.json").write_text(json.dumps(index))
    words = ["umoci", "unpack", "--keep-dirlinks", "--image", f"{tmp_path}/layout:top", str(tmp_path / "bundle")]
    subprocess.run(words, check=True, capture_output=True)
    assert signature(str(tmp_path / "bundle" / "rootfs")) == expected


def test_tar_reads_a_layer_we_export(store: ImageStore, tmp_path: Path) -> None:
    image = import_rootfs(io.BytesIO(BASE), None, store=store)
    written(store.driver.export_layer(image.chain[0]), tmp_path / "layer.tar")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "out"), "--xattrs", "-xpf", str(tmp_path / "layer.tar")], check=True)
    assert signature(str(tmp_path / "out")) == view(store, image.chain, tmp_path / "m")


# --- names, holds, garbage ------------------------------------------------------------


def test_names(store: ImageStore) -> None:
    image = busybox_image(store, "one")
    assert store.get("one").repo_tags == ("one:latest",)
    store.tag("one", Reference.parse("two:v1"))
    assert store.get(image.id[7:]).repo_tags == ("one:latest", "two:v1")
    for unknown in ("one:v2", "three", "sha256:" + "0" * 64, "not a name", ""):
        with pytest.raises(ImageUnknown):
            store.get(unknown)
    second = busybox_image(store, "one")  # takes the name
    assert second.id != image.id
    assert store.get(image.id).repo_tags == ("two:v1",)
    assert [found.id for found in store.list()] == [second.id, image.id]


def test_ambiguous_ids(store: ImageStore) -> None:
    images = [busybox_image(store, f"n:{number}") for number in range(17)]
    firsts = [image.id[7] for image in images]
    twice = next(letter for letter in firsts if firsts.count(letter) > 1)
    with pytest.raises(ReferenceAmbiguous):
        store.get(twice)


def test_removal_counts_names_and_holders(store: ImageStore) -> None:
    image = busybox_image(store, "one:v1")
    store.tag("one:v1", Reference.parse("one:v2"))
    assert store.remove("one:v2").deleted == ()
    store.hold("one:v1", "container-1")
    assert store.holders(image.id) == ("container-1",)
    with pytest.raises(ImageInUse, match="container-1"):
        store.remove("one:v1")
    assert store.prune(unused=True).deleted == ()
    assert store.remove("one:v1", force=True).untagged == ("one:v1",)
    assert store.get(image.id).repo_tags == ()
    store.release("container-1")
    store.release("container-1")
    gone = store.prune()
    assert gone.deleted == (image.id,)
    assert gone.freed > 1_000_000
    assert list(store.content.digests()) == []
    assert store.driver.table.layers() == []


def test_an_id_with_several_names_needs_force(store: ImageStore) -> None:
    image = busybox_image(store, "one:v1")
    store.tag("one:v1", Reference.parse("one:v2"))
    with pytest.raises(ImageInUse, match="2 names"):
        store.remove(image.id)
    assert store.remove(image.id, force=True).deleted == (image.id,)


def test_shared_layers_stay_as_long_as_somebody_needs_them(store: ImageStore) -> None:
    top = layered_image(store, "top:v1", 1)
    store.remove("top:v1-base")
    assert len(store.driver.table.layers()) == 2
    store.driver.prepare("box", list(top.chain))
    store.remove("top:v1")
    assert len(store.driver.table.layers()) == 2  # a container stands on them
    store.driver.remove_container("box")
    store.gc()
    assert store.driver.table.layers() == []


def test_another_drivers_content_is_not_garbage(tmp_path: Path) -> None:
    first = node(tmp_path / "n", "overlay2")
    image = busybox_image(first, "one:v1")
    second = node(tmp_path / "n", "vfs")
    assert second.list() == []
    assert second.gc() == 0
    again = node(tmp_path / "n", "overlay2")
    assert again.get("one:v1") == image


def test_register_wants_applied_layers(store: ImageStore, other: ImageStore) -> None:
    image = busybox_image(other, "one:v1")
    config, manifest = (other.content.read(Digest.parse(text)) for text in (image.id, image.manifest))
    with pytest.raises(LayerUnknown):
        store.register(config=config, manifest=manifest, manifest_type=image.manifest_type, layers=image.layers)


def test_building_puts_garbage_collection_off(store: ImageStore) -> None:
    with store.building():
        digest = store.content.put(b"not yet named")
        store.gc()
        assert store.content.has(digest)
    assert not store.content.has(digest)


def test_second_layer_applies_on_the_first(store: ImageStore, tmp_path: Path) -> None:
    base = import_rootfs(io.BytesIO(BASE), None, store=store)
    result = store.driver.apply(None, base.chain[0], io.BytesIO(SECOND))
    assert "opt/old/c" in view(store, (result.chain_id, *base.chain), tmp_path / "m")


def test_empty_folder_layer(store: ImageStore, tmp_path: Path) -> None:
    image = import_rootfs(io.BytesIO(archive(folder("only"))), None, store=store)
    assert list(view(store, image.chain, tmp_path / "m")) == ["only"]
