"""Refusals of the registry. v2 translates them into the OCI error shape, REST into problem+json.

WharfError
  ├── NotFound ── RepositoryUnknown, BlobUnknown, ManifestUnknown, UploadUnknown
  ├── InvalidInput ── ManifestBlobUnknown, DigestAlgorithmUnknown
  ├── RangeInvalid (416)
  ├── Unsupported (405) ── RegistryReadOnly
  ├── TagImmutable (412)
  ├── Conflict ── ImageInUse, TagLimitReached
  └── Denied ── QuotaExceeded
"""

from __future__ import annotations

from agent.protocol.errors import Conflict, Denied, InvalidInput, NotFound, WharfError


class RepositoryUnknown(NotFound):
    code = "name_unknown"


class BlobUnknown(NotFound):
    code = "blob_unknown"


class ManifestUnknown(NotFound):
    code = "manifest_unknown"


class UploadUnknown(NotFound):
    code = "blob_upload_unknown"


class ManifestBlobUnknown(InvalidInput):
    """A manifest names a blob or a child that its repository does not hold."""

    code = "manifest_blob_unknown"


class SizeInvalid(InvalidInput):
    code = "size_invalid"


class RangeInvalid(WharfError):
    """A chunk that does not begin where the upload ends, or a range outside of a blob. `extra.offset` is where it ends."""

    code = "range_invalid"
    status = 416


class Unsupported(WharfError):
    code = "unsupported"
    status = 405


class RegistryReadOnly(Unsupported):
    """An administrator made the registry read-only; the detail says why."""

    code = "registry_read_only"


class TagImmutable(WharfError):
    """412 as Harbor answers it, with the rule in the detail."""

    code = "tag_immutable"
    status = 412


class ImageInUse(Conflict):
    """A node runs the image or a service names it; `extra.holders` says who."""

    code = "image_in_use"


class TagLimitReached(Conflict):
    """No tag may go to make room for one more."""

    code = "tag_limit_reached"


class QuotaExceeded(Denied):
    code = "quota_exceeded"
