"""What storage and image work can refuse.

WharfError
  ├── InvalidInput ─ LayerInvalid         the archive breaks a rule; `extra.rule` names it
  ├── InvalidInput ─ DigestMismatch       the bytes are not what was promised
  ├── InvalidInput ─ OptionInvalid        a storage option that the driver does not have, or not with this value
  ├── InvalidInput ─ SizeUnsupported      the driver cannot limit a container's size here, or not to this size
  ├── TooLarge     ─ LayerTooLarge        over a limit; `extra.limit` names it
  ├── NotFound     ─ LayerUnknown
  ├── Conflict     ─ LayerInUse, DriverUnsupported, DriverAmbiguous
  ├── Unavailable  ─ NoSpace              free some, then the same request succeeds
  ├── Internal     ─ ExtractionFailed     the helper process died or the disk refused
  └── Internal     ─ DriverFailed         a program that the driver needs refused what it was asked
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agent.protocol.errors import Conflict, Internal, InvalidInput, NotFound, TooLarge, Unavailable, WharfError


class LayerInvalid(InvalidInput):
    code = "layer_invalid"


class DigestMismatch(InvalidInput):
    code = "digest_mismatch"


class OptionInvalid(InvalidInput):
    code = "storage_option_invalid"


class SizeUnsupported(InvalidInput):
    code = "storage_size_unsupported"


class LayerTooLarge(TooLarge):
    code = "layer_too_large"


class LayerUnknown(NotFound):
    code = "layer_unknown"


class LayerInUse(Conflict):
    code = "layer_in_use"


class DriverUnsupported(Conflict):
    code = "graph_driver_unsupported"


class DriverAmbiguous(Conflict):
    code = "graph_driver_ambiguous"


class NoSpace(Unavailable):
    code = "no_space"
    status = 507


class ExtractionFailed(Internal):
    code = "extraction_failed"


class DriverFailed(Internal):
    code = "graph_driver_failed"


@contextmanager
def disk_full_explained() -> Iterator[None]:
    """Turn the kernel's ENOSPC and EDQUOT into `NoSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace("the disk is full: remove unused images or enlarge the disk, then try again") from error


_BY_CODE: Mapping[str, type[WharfError]] = {
    cls.code: cls for cls in (LayerInvalid, DigestMismatch, LayerTooLarge, NoSpace, ExtractionFailed)
}


def from_dict(data: Mapping[str, Any]) -> WharfError:
    """The error that a helper process reported with `WharfError.as_dict`."""
    extra = data.get("extra")
    cls = _BY_CODE.get(str(data.get("code")), ExtractionFailed)
    return cls(str(data.get("detail", "the extraction helper gave no reason")), **(extra if isinstance(extra, dict) else {}))
