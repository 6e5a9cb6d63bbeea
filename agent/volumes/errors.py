"""What can go wrong with volumes."""

from __future__ import annotations

from agent.protocol.errors import Conflict, InvalidInput, NotFound


class InvalidVolume(InvalidInput):
    code = "invalid_volume"


class VolumeNotFound(NotFound):
    code = "volume_not_found"


class VolumeExists(Conflict):
    """The name is taken by a volume of another driver or with other options."""

    code = "volume_exists"


class VolumeInUse(Conflict):
    """`extra.containers` lists who uses it."""

    code = "volume_in_use"


class BindSourceMissing(InvalidInput):
    code = "bind_source_missing"


class BindSourceForbidden(InvalidInput):
    code = "bind_source_forbidden"


class DuplicateTarget(InvalidInput):
    code = "duplicate_mount_target"
