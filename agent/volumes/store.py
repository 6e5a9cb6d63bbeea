"""Named directories that outlive containers: `<root>/<name>/{_data,volume.json,users/<container id>}`, as Docker lays them out.

A volume appears and disappears by one rename; a user is an empty file, so counting references never rewrites anything.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.protocol.codec import InvalidSpec, decode, encode
from agent.protocol.spec import NAME, MountSpec, MountType
from agent.storage import durable, trees
from agent.sys.mount import Mount
from agent.volumes import copyup, mounts
from agent.volumes.errors import DuplicateTarget, InvalidVolume, VolumeExists, VolumeInUse, VolumeNotFound

ANONYMOUS = "com.docker.volume.anonymous"
Mounts = list[Mount]  # named out here: inside the class, `list` is the method
Names = list[str]
_OPTIONS = frozenset({"type", "device", "o"})


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume. `created` is in Unix nanoseconds."""

    name: str
    created: int
    driver: str = "local"
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS in self.labels


Volumes = list[Volume]


class VolumeStore:
    """Volumes of one node. protect: directories (the agent's own) that no bind mount may enter. One lock guards everything."""

    def __init__(self, root: str, *, protect: Sequence[str] = ()) -> None:
        self._root = root
        self._protect = tuple(protect)
        self._lock = threading.RLock()
        os.makedirs(root, mode=0o700, exist_ok=True)
        os.chmod(root, 0o700)  # a container's root may leave a setuid program in a volume, which no user of the node shall reach
        self._sweep()

    # -- volumes

    def create(
        self,
        name: str = "",
        driver: str = "local",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """Make a volume, or return the one that has the name already (Docker's rule) unless other options are asked for.

        No name: an anonymous one. Options of the local driver: type=tmpfs with o=size=…,uid=…; nothing else.
        """
        if driver != "local":
            raise InvalidVolume(f"volume driver {driver!r} is not installed on this node: use 'local'")
        _check_options(options or {})
        with self._lock:
            if not name:
                return self._make(os.urandom(16).hex(), options or {}, {**(labels or {}), ANONYMOUS: ""})
            _check_name(name)
            present = self._read(name)
            if present is None:
                return self._make(name, options or {}, labels or {})
            if options and dict(present.options) != dict(options):
                raise VolumeExists(
                    f"volume {name!r} exists with other options: remove it first, or use another name", volume=name
                )
            return present

    def get(self, name: str) -> Volume:
        volume = self._read(name) if NAME.fullmatch(name) else None
        if volume is None:
            raise VolumeNotFound(f"volume {name!r} does not exist on this node", volume=name)
        return volume

    def list(self) -> Sequence[Volume]:
        found = (self._read(name) for name in sorted(os.listdir(self._root)) if not name.startswith("."))
        return [volume for volume in found if volume is not None]

    def path(self, name: str) -> str:
        """The directory with the data. Raises VolumeNotFound."""
        return os.path.join(self._root, self.get(name).name, "_data")

    def users(self, name: str) -> Names:
        """Ids of the containers that use it."""
        return sorted(os.listdir(os.path.join(self._root, self.get(name).name, "users")))

    def size(self, name: str) -> int:
        """Bytes of disk that the data occupies."""
        return trees.disk_usage(self.path(name))

    def remove(self, name: str) -> None:
        """Remove a volume and its data. Raises VolumeNotFound, VolumeInUse."""
        with self._lock:
            users = self.users(name)
            if users:
                short = ", ".join(user[:12] for user in users)
                raise VolumeInUse(f"volume {name!r} is in use by {short}: remove the containers first", containers=users)
            dead = f".dead-{os.urandom(4).hex()}"
            os.rename(os.path.join(self._root, name), os.path.join(self._root, dead))
            durable.sync_directory(self._root)
        self._delete(dead)

    def prune(self, *, anonymous_only: bool = True, wanted: Callable[[Volume], bool] = lambda _: True) -> Sequence[Volume]:
        """Remove what no container uses and `wanted` (a filter on labels, say) agrees to; returns what went."""
        gone: Volumes = []
        with self._lock:
            for volume in self.list():
                if self.users(volume.name) or not wanted(volume) or (anonymous_only and not volume.anonymous):
                    continue
                self.remove(volume.name)
                gone.append(volume)
        return gone

    # -- containers

    def acquire(self, name: str, container_id: str) -> None:
        """Count a container as user, so that the volume stays."""
        if not container_id or "/" in container_id or container_id.startswith("."):
            raise InvalidVolume(f"container id {container_id!r} cannot name a file")
        with self._lock:
            path = os.path.join(self._root, self.get(name).name, "users", container_id)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def release(self, container_id: str, *, remove_anonymous: bool = True) -> Names:
        """Forget a removed container; anonymous volumes that only it used go with it. Returns the names of those."""
        gone: Names = []
        with self._lock:
            for volume in self.list():
                mark = os.path.join(self._root, volume.name, "users", container_id)
                if durable.remove(mark) and volume.anonymous and remove_anonymous and not self.users(volume.name):
                    self.remove(volume.name)
                    gone.append(volume.name)
        return gone

    def mounts_for(self, specs: Sequence[MountSpec], container_id: str, rootfs: Mounts | None = None) -> Mounts:
        """The mounts of a container, parents before what lies in them; its volumes are made, counted and filled from the image.

        All or nothing: on an error the container uses no volume of these. Raises DuplicateTarget, BindSourceMissing,
        BindSourceForbidden and what `create` raises.
        """
        targets = [os.path.normpath(spec.target) for spec in specs]
        for target in targets:
            if targets.count(target) > 1:
                raise DuplicateTarget(f"two mounts have the target {target}: leave one out", target=target)
        with self._lock:
            try:
                return [
                    self._mount(spec, container_id, rootfs) for spec in sorted(specs, key=lambda spec: spec.target.count("/"))
                ]
            except BaseException:
                self.release(container_id)
                raise

    def shifted(self, found: Sequence[Mount]) -> Mounts:
        """`found` with ids shifted in what is ours, as in the layers; paths of the node keep their owners, who are nobody to the
        container."""
        ours = self._root.rstrip("/") + "/"
        return [mounts.shifted([mount])[0] if mount.source.startswith(ours) else mount for mount in found]

    def populate(self, name: str, rootfs: Mounts, target: str) -> bool:
        """Fill a volume that is empty with what the image has at `target`, the directory's owner and mode included.

        False: nothing was done. Copied aside and renamed, so a crash leaves it empty and the next container tries again.
        """
        with self._lock:
            data = self.path(name)
            if os.listdir(data):
                return False
            fresh = os.path.join(self._root, name, f".fresh-{os.urandom(4).hex()}")
            try:
                if not copyup.copy_from(rootfs, target, fresh):
                    return False
                os.rename(fresh, data)
                durable.sync_directory(os.path.dirname(data))
            except BaseException:
                self._delete(os.path.join(name, os.path.basename(fresh)))
                raise
            return True

    # -- inside

    def _mount(self, spec: MountSpec, container_id: str, rootfs: Mounts | None) -> Mount:
        if spec.type is MountType.BIND:
            return mounts.bind(spec, self._protect)
        if spec.type is MountType.TMPFS:
            return mounts.tmpfs(spec)
        volume = self.create(spec.source)
        first = not self.users(volume.name)
        self.acquire(volume.name, container_id)
        if volume.options:
            return mounts.tmpfs(spec, volume.options.get("o", ""))
        if first and rootfs:  # in use, another container has the empty directory bound already: it must stay the same one
            self.populate(volume.name, rootfs, spec.target)
        return mounts.volume(spec, self.path(volume.name))

    def _make(self, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> Volume:
        volume = Volume(name, time.time_ns(), options=dict(options), labels=dict(labels))
        building = os.path.join(self._root, f".new-{os.urandom(4).hex()}")
        os.mkdir(building, 0o711)
        os.mkdir(os.path.join(building, "_data"), 0o755)
        os.chmod(os.path.join(building, "_data"), 0o755)  # noqa: S103  # whatever the umask: any user of a container may enter
        os.mkdir(os.path.join(building, "users"), 0o700)
        durable.write_json(os.path.join(building, "volume.json"), encode(volume))
        os.rename(building, os.path.join(self._root, name))
        durable.sync_directory(self._root)
        return volume

    def _read(self, name: str) -> Volume | None:
        try:
            data = durable.read_json(os.path.join(self._root, name, "volume.json"))
            return None if data is None else decode(Volume, data, unknown="ignore")
        except (NotADirectoryError, json.JSONDecodeError, InvalidSpec):
            return None

    def _sweep(self) -> None:
        """Finish removals and undo creations that a crash cut short."""
        for name in os.listdir(self._root):
            if name.startswith((".dead-", ".new-")):
                self._delete(name)
        for volume in self.list():
            for name in os.listdir(os.path.join(self._root, volume.name)):
                if name.startswith(".fresh-"):
                    self._delete(os.path.join(volume.name, name))

    def _delete(self, name: str) -> None:
        root = trees.open_directory(self._root)
        try:
            trees.remove(os.fsencode(name), root)
        finally:
            os.close(root)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidVolume(
            f"volume name {name[:80]!r} is not valid: a letter or digit, then at most 62 of letters, digits and _ . -"
        )


def _check_options(options: Mapping[str, str]) -> None:
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise InvalidVolume(f"volume option {unknown[0]!r} is not known; known are type, device and o")
    if options and options.get("type") != "tmpfs":
        raise InvalidVolume(
            "volume options can only ask for type=tmpfs: for a path of the node use a bind mount, which is checked as such"
        )
    mounts.check_tmpfs(options.get("o", ""))
