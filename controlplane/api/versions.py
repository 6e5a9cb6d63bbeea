"""ETag and If-Match: an integer version a row, "v12" on the wire (RFC 9110 section 13.1.1)."""

from __future__ import annotations

import re
from typing import Any, Protocol

from django.db import models
from django.db.models import F
from django.utils import timezone

from agent.protocol.errors import InvalidInput, PreconditionFailed
from controlplane.api.errors import PreconditionRequired

_ETAG = re.compile(r'\A"v([0-9]{1,9})"\Z')


class HasVersion(Protocol):
    version: int


def etag(row: HasVersion) -> str:
    return f'"v{row.version}"'


def expected_version(request: Any) -> int | None:
    """The version that If-Match names; None for `*` (any).

    Raises PreconditionRequired (428) when the header is absent and InvalidInput when it is no ETag of ours.
    """
    text = str(request.headers.get("If-Match", "")).strip()
    if not text:
        raise PreconditionRequired(
            "Send If-Match with the ETag you read, so that nobody's change in between is lost; `*` for any."
        )
    if text == "*":
        return None
    match = _ETAG.match(text)
    if match is None:
        raise InvalidInput(f'If-Match must hold one ETag like "v12" or *, not {text!r}.')
    return int(match[1])


def check(row: HasVersion, expected: int | None) -> None:
    """Raises PreconditionFailed (412) when `row` is not at `expected`."""
    if expected is not None and row.version != expected:
        raise PreconditionFailed(
            f"The row is at version {row.version}, you changed version {expected}: read it again.", current=etag(row)
        )


def write(row: Any, expected: int | None, **changes: Any) -> None:
    """Sets `changes` on `row`, one version up, in one conditional UPDATE. Raises PreconditionFailed when somebody was faster."""
    model: type[models.Model] = type(row)
    rows = model._default_manager.filter(pk=row.pk)
    if expected is not None:
        rows = rows.filter(version=expected)
    if hasattr(row, "updated_at"):
        changes["updated_at"] = timezone.now()
    if not rows.update(version=F("version") + 1, **changes):
        raise PreconditionFailed("The row was changed or removed in the meantime: read it again.")
    row.refresh_from_db()
