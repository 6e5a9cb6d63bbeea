"""What pulling, pushing, loading and keeping images can refuse.

WharfError
  ├── NotFound        ─ ImageUnknown, BlobUnknown
  ├── Conflict        ─ ImageInUse, ReferenceAmbiguous
  ├── InvalidInput    ─ ImageInvalid, ArchiveInvalid
  ├── Unauthenticated ─ RegistryUnauthenticated
  ├── Denied          ─ RegistryDenied
  └── Unavailable     ─ RegistryUnavailable, RegistryUntrusted
"""

from __future__ import annotations

from agent.protocol.errors import Conflict, Denied, InvalidInput, NotFound, Unauthenticated, Unavailable


class ImageUnknown(NotFound):
    code = "image_unknown"


class BlobUnknown(NotFound):
    code = "blob_unknown"


class ImageInUse(Conflict):
    code = "image_in_use"


class ReferenceAmbiguous(Conflict):
    code = "reference_ambiguous"


class ImageInvalid(InvalidInput):
    code = "image_invalid"


class ArchiveInvalid(InvalidInput):
    code = "archive_invalid"


class RegistryUnauthenticated(Unauthenticated):
    code = "registry_unauthenticated"


class RegistryDenied(Denied):
    code = "registry_denied"


class RegistryUnavailable(Unavailable):
    code = "registry_unavailable"


class RegistryUntrusted(Unavailable):
    """Its certificate is not one that we were told to believe. No retry: somebody has to look."""

    code = "registry_untrusted"
    status = 502
    retry = False
