"""Volumes on a real file system, filled from real layers, mounted for real."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from agent.protocol.codec import InvalidSpec
from agent.protocol.spec import MountSpec, MountType
from agent.sys.mount import Mount
from agent.volumes.errors import (
    BindSourceForbidden,
    BindSourceMissing,
    DuplicateTarget,
    InvalidVolume,
    VolumeExists,
    VolumeInUse,
    VolumeNotFound,
)
from agent.volumes.store import VolumeStore

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, devices and overlay mounts")
pytestmark = needs_root


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(str(tmp_path / "volumes"), protect=[str(tmp_path / "agent")])


@pytest.fixture
def rootfs(tmp_path: Path) -> list[Mount]:
    """Two layers: /data/a comes from the lower one, the upper one deletes /data/gone and adds a few awkward things."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    data = lower / "data"
    (data / "sub").mkdir(parents=True)
    (data / "a").write_text("from below")
    (data / "gone").write_text("deleted above")
    os.chown(data / "a", 1234, 2345)
    os.chmod(data / "a", 0o4640)
    (upper / "data").mkdir(parents=True)
    os.mknod(upper / "data" / "gone", stat.S_IFCHR, os.makedev(0, 0))
    (upper / "data" / "b").write_text("from above")
    os.link(upper / "data" / "b", upper / "data" / "b2")
    os.symlink("/etc/shadow", upper / "data" / "link")
    os.mkfifo(upper / "data" / "fifo")
    os.setxattr(upper / "data" / "b", "user.note", b"kept")
    os.chown(upper / "data", 77, 88)
    os.chmod(upper / "data", 0o711)
    os.symlink("/", upper / "escape")
    (upper / "etc").mkdir()
    return [Mount("overlay", "overlay", "", (f"lowerdir={upper}", f"lowerdir={lower}", "upperdir=/nowhere", "workdir=/nowhere"))]


def volume_spec(name: str, target: str = "/data", **options: bool) -> MountSpec:
    return MountSpec(MountType.VOLUME, target, name, **options)


def test_no_user_of_the_node_reaches_into_volumes(tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir(mode=0o755)  # as an earlier version may have made it
    VolumeStore(str(tmp_path / "volumes"))
    assert stat.S_IMODE((tmp_path / "volumes").stat().st_mode) == 0o700


def test_create_get_list_remove(store: VolumeStore, tmp_path: Path) -> None:
    made = store.create("db", labels={"team": "a"})
    assert store.create("db") == made, "asked for again, it is the same"
    assert store.get("db").labels == {"team": "a"}
    assert [volume.name for volume in store.list()] == ["db"]
    assert store.path("db") == str(tmp_path / "volumes" / "db" / "_data")
    assert VolumeStore(str(tmp_path / "volumes")).list() == [made], "a new agent finds it"
    store.remove("db")
    with pytest.raises(VolumeNotFound):
        store.get("db")
    assert os.listdir(tmp_path / "volumes") == []


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a\0b", "-x", "x" * 64, "../../etc"])
def test_names_cannot_leave_the_directory(store: VolumeStore, name: str) -> None:
    with pytest.raises(InvalidVolume):
        store.create(name)
    with pytest.raises(VolumeNotFound):
        store.remove(name)
    with pytest.raises((InvalidSpec, VolumeNotFound)):
        MountSpec(MountType.VOLUME, "/data", name)


def test_options_and_drivers_are_refused_unless_known(store: VolumeStore) -> None:
    with pytest.raises(InvalidVolume, match="driver 'nfs'"):
        store.create("x", driver="nfs")
    with pytest.raises(InvalidVolume, match="bind mount"):
        store.create("x", options={"type": "none", "o": "bind", "device": "/etc"})
    with pytest.raises(InvalidVolume, match="suid"):
        store.create("x", options={"type": "tmpfs", "o": "size=1m,suid"})
    store.create("x", options={"type": "tmpfs", "o": "size=1m"})
    with pytest.raises(VolumeExists):
        store.create("x", options={"type": "tmpfs", "o": "size=2m"})
    assert store.mounts_for([volume_spec("x")], "c1") == [
        Mount("tmpfs", "tmpfs", "/data", ("nosuid", "nodev", "noexec", "size=1m")),
    ]


def test_a_new_volume_is_filled_from_the_merged_image(store: VolumeStore, rootfs: list[Mount]) -> None:
    (mount,) = store.mounts_for([volume_spec("db")], "c1", rootfs)
    assert mount == Mount("bind", store.path("db"), "/data", ("rbind", "rprivate", "rw"))
    data = Path(mount.source)
    assert sorted(os.listdir(data)) == ["a", "b", "b2", "fifo", "link", "sub"]
    assert (data / "a").read_text() == "from below"
    assert (data / "b").read_text() == "from above"
    info = (data / "a").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (1234, 2345, 0o4640)
    assert (data / "b").stat().st_ino == (data / "b2").stat().st_ino
    assert os.readlink(data / "link") == "/etc/shadow"
    assert stat.S_ISFIFO(os.lstat(data / "fifo").st_mode)
    assert os.getxattr(data / "b", "user.note") == b"kept"
    top = data.stat()
    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (77, 88, 0o711)
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(data.parent) in line]


def test_a_volume_with_content_is_left_alone(store: VolumeStore, rootfs: list[Mount]) -> None:
    store.create("db")
    (Path(store.path("db")) / "mine").write_text("x")
    store.mounts_for([volume_spec("db")], "c1", rootfs)
    assert os.listdir(store.path("db")) == ["mine"]


def test_an_empty_volume_in_use_keeps_its_directory(store: VolumeStore, rootfs: list[Mount]) -> None:
    """The other container has the directory bound: replacing it would split the volume in two."""
    store.mounts_for([volume_spec("db", "/elsewhere")], "c1")
    before = os.stat(store.path("db")).st_ino
    store.mounts_for([volume_spec("db")], "c2", rootfs)
    assert os.stat(store.path("db")).st_ino == before


@pytest.mark.parametrize("target", ["/absent", "/data/a", "/escape/etc/nothing"])
def test_nothing_to_copy(store: VolumeStore, rootfs: list[Mount], target: str) -> None:
    store.mounts_for([volume_spec("v", target)], "c1", rootfs)
    assert os.listdir(store.path("v")) == []


def test_a_link_in_the_image_cannot_reach_the_nodes_files(store: VolumeStore, tmp_path: Path) -> None:
    layer, secret = tmp_path / "layer", tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("k")
    layer.mkdir()
    os.symlink(secret, layer / "data")
    os.symlink("../../../../../../../" + str(secret), layer / "up")
    for number, target in enumerate(("/data", "/up")):
        store.mounts_for([volume_spec(f"v{number}", target)], "c1", [Mount("bind", str(layer), "", ())])
        assert os.listdir(store.path(f"v{number}")) == []


def test_references_keep_a_volume(store: VolumeStore) -> None:
    store.mounts_for([volume_spec("db")], "c1")
    store.mounts_for([volume_spec("db")], "c2")
    assert store.users("db") == ["c1", "c2"]
    with pytest.raises(VolumeInUse, match="c1, c2"):
        store.remove("db")
    assert store.prune(anonymous_only=False) == []
    assert store.release("c1") == []
    store.release("c2")
    assert [volume.name for volume in store.prune()] == [], "a named one is not pruned unless asked"
    assert [volume.name for volume in store.prune(anonymous_only=False)] == ["db"]


def test_anonymous_volumes_go_with_their_container(store: VolumeStore) -> None:
    (mount,) = store.mounts_for([volume_spec("")], "c1")
    (volume,) = store.list()
    assert volume.anonymous
    assert mount.source == store.path(volume.name)
    assert store.release("c1") == [volume.name]
    assert store.list() == []
    store.mounts_for([volume_spec("")], "c2")
    store.release("c2", remove_anonymous=False)
    assert len(store.prune()) == 1


def test_binds_and_tmpfs(store: VolumeStore, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "agent" / "run").mkdir(parents=True)
    mounts = store.mounts_for(
        [
            MountSpec(MountType.TMPFS, "/a/b/c", tmpfs_size=1 << 20),
            MountSpec(MountType.BIND, "/a", str(tmp_path / "src"), read_only=True),
        ],
        "c1",
    )
    assert mounts == [
        Mount("bind", str(tmp_path / "src"), "/a", ("rbind", "rprivate", "ro", "rro")),
        Mount("tmpfs", "tmpfs", "/a/b/c", ("nosuid", "nodev", "noexec", "size=1048576")),
    ], "parents first"
    with pytest.raises(BindSourceMissing, match="create it first"):
        store.mounts_for([MountSpec(MountType.BIND, "/x", str(tmp_path / "nowhere"))], "c1")
    os.symlink(tmp_path / "agent", tmp_path / "innocent")
    for source in ("agent", "agent/run", "innocent/run", "src/../agent"):
        with pytest.raises(BindSourceForbidden):
            store.mounts_for([MountSpec(MountType.BIND, "/x", str(tmp_path / source))], "c1")


def test_a_refused_list_leaves_no_reference(store: VolumeStore, tmp_path: Path) -> None:
    with pytest.raises(BindSourceMissing):
        store.mounts_for(
            [volume_spec("db"), volume_spec("", "/b"), MountSpec(MountType.BIND, "/x/y", str(tmp_path / "no"))], "c1"
        )
    assert store.users("db") == []
    assert [volume.name for volume in store.list()] == ["db"]
    with pytest.raises(DuplicateTarget, match="/data"):
        store.mounts_for([volume_spec("db"), volume_spec("other", "/data/")], "c1")


def test_crashes_half_way_are_cleaned_up(store: VolumeStore, tmp_path: Path) -> None:
    root = tmp_path / "volumes"
    store.create("db")
    for path in (".new-0", ".dead-0/_data/x", "db/.fresh-0/y"):
        (root / path).mkdir(parents=True)
    again = VolumeStore(str(root))
    assert [volume.name for volume in again.list()] == ["db"]
    assert sorted(os.listdir(root)) == ["db"]
    assert sorted(os.listdir(root / "db")) == ["_data", "users", "volume.json"]


def test_size_counts_disk_blocks(store: VolumeStore) -> None:
    store.create("db")
    empty = store.size("db")
    (Path(store.path("db")) / "x").write_bytes(os.urandom(1 << 20))
    subprocess.run(["sync", "-f", store.path("db")], check=True)
    assert (1 << 20) <= store.size("db") - empty < (2 << 20)
