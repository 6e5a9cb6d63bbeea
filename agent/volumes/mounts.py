"""A `MountSpec` as the `Mount` that the runtime performs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from agent.protocol.spec import MountSpec
from agent.sys.mount import Mount
from agent.volumes.errors import BindSourceForbidden, BindSourceMissing, InvalidVolume

_TMPFS_WORDS = ("size", "mode", "uid", "gid", "nr_inodes")


def bind(spec: MountSpec, protect: Sequence[str] = ()) -> Mount:
    """A path of the node. It must exist, and not lie in the agent's own directories."""
    if not os.path.lexists(spec.source):
        raise BindSourceMissing(f"bind source {spec.source} does not exist on the node: create it first", path=spec.source)
    real = os.path.realpath(spec.source)
    for directory in protect:
        own = os.path.realpath(directory)
        if real == own or real.startswith(own.rstrip("/") + "/"):
            raise BindSourceForbidden(
                f"bind source {spec.source} lies in {directory}, which belongs to the agent", path=spec.source
            )
    return Mount("bind", spec.source, spec.target, ("rbind", "rprivate", *_access(spec)))


def volume(spec: MountSpec, data: str) -> Mount:
    return Mount("bind", data, spec.target, ("rbind", "rprivate", *_access(spec)))


def shifted(mounts: Sequence[Mount]) -> list[Mount]:
    """The same for a container with a user namespace: whose owner on disk is 0 belongs to the container's root."""
    return [mount._replace(options=(*mount.options, "idmap")) for mount in mounts]


def tmpfs(spec: MountSpec, options: str = "") -> Mount:
    """Memory: `tmpfs_size` bytes at most, or what `options` ("size=64m,mode=1777") say."""
    words = [word for word in options.split(",") if word]
    if spec.tmpfs_size:
        words = [word for word in words if not word.startswith("size=")] + [f"size={spec.tmpfs_size}"]
    access = ("ro",) if spec.read_only else ()
    return Mount("tmpfs", "tmpfs", spec.target, ("nosuid", "nodev", "noexec", *words, *access))


def check_tmpfs(options: str) -> None:
    for word in filter(None, options.split(",")):
        if word.split("=", 1)[0] not in _TMPFS_WORDS:
            raise InvalidVolume(f"tmpfs option {word!r} is not allowed; allowed are {', '.join(_TMPFS_WORDS)}")


def _access(spec: MountSpec) -> tuple[str, ...]:
    """Read-only reaches mounts inside the source too: a plain "ro" would leave them writable."""
    return ("ro", "rro") if spec.read_only else ("rw",)
