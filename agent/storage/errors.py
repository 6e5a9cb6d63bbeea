"""What storage and image work can refuse.

WharfError
  ├── InvalidInput ─ LayerInvalid         the archive breaks a rule; `extra.rule` names it
  ├── InvalidInput ─ DigestMismatch       the bytes are not what was promised
  ├── TooLarge     ─ LayerTooLarge        over a limit; `extra.limit` names it
  ├── NotFound     ─ LayerUnknown
  ├── Conflict     ─ LayerInUse, DriverUnsupported, DriverAmbiguous
  ├── Unavailable  ─ NoSpace              free some, then the same request succeeds
  └── Internal     ─ ExtractionFailed     the helper process died or the disk refused
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.protocol.errors import Conflict, Internal, InvalidInput, NotFound, TooLarge, Unavailable, WharfError


class LayerInvalid(InvalidInput):
    code = "layer_invalid"


class DigestMismatch(InvalidInput):
    code = "digest_mismatch"


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


_BY_CODE: Mapping[str, type[WharfError]] = {
    cls.code: cls for cls in (LayerInvalid, DigestMismatch, LayerTooLarge, NoSpace, ExtractionFailed)
}


def from_dict(data: Mapping[str, Any]) -> WharfError:
    """The error that a helper process reported with `WharfError.as_dict`."""
    extra = data.get("extra")
    cls = _BY_CODE.get(str(data.get("code")), ExtractionFailed)
    return cls(str(data.get("detail", "the extraction helper gave no reason")), **(extra if isinstance(extra, dict) else {}))
