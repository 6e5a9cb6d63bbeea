"""Every refusal in the OCI error shape (distribution-spec, "Error Codes").

The spec's list of codes is closed: whatever we raise is mapped into it by its own code, else by its status.
"""

from __future__ import annotations

import json
import math

from agent.protocol.errors import Unauthenticated, WharfError
from registry.v2.response import Response

_BY_CODE = {
    "name_invalid": "NAME_INVALID",
    "tag_invalid": "MANIFEST_INVALID",
    "digest_invalid": "DIGEST_INVALID",
    "digest_mismatch": "DIGEST_INVALID",
    "manifest_invalid": "MANIFEST_INVALID",
    "manifest_too_large": "SIZE_INVALID",
    "name_unknown": "NAME_UNKNOWN",
    "blob_unknown": "BLOB_UNKNOWN",
    "manifest_unknown": "MANIFEST_UNKNOWN",
    "manifest_blob_unknown": "MANIFEST_BLOB_UNKNOWN",
    "blob_upload_unknown": "BLOB_UPLOAD_UNKNOWN",
    "size_invalid": "SIZE_INVALID",
    "unsupported": "UNSUPPORTED",
}
_BY_STATUS = {
    400: "UNSUPPORTED",
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NAME_UNKNOWN",
    405: "UNSUPPORTED",
    409: "DENIED",
    412: "DENIED",
    413: "SIZE_INVALID",
    416: "BLOB_UPLOAD_INVALID",
    429: "TOOMANYREQUESTS",
}
CODES = frozenset({*_BY_CODE.values(), *_BY_STATUS.values(), "BLOB_UPLOAD_INVALID"})


class Challenge(Unauthenticated):
    """401 with WWW-Authenticate. `scope` is what a token would need; `insufficient` when a token came without it."""

    code = "unauthorized"

    def __init__(self, detail: str, scope: str = "", insufficient: bool = False) -> None:
        super().__init__(detail)
        self.scope = scope
        self.insufficient = insufficient


def oci_code(error: WharfError) -> str:
    return _BY_CODE.get(error.code) or _BY_STATUS.get(error.status, "UNSUPPORTED")


def error_response(error: WharfError, realm: str, service: str) -> Response:
    """The answer to `error`; `realm` is the absolute URL of the token service."""
    entry = {"code": oci_code(error), "message": error.detail, "detail": dict(error.extra)}
    response = Response(error.status, {"content-type": "application/json"}, json.dumps({"errors": [entry]}, default=str).encode())
    if error.status == 401:
        response.headers["www-authenticate"] = _challenge(error, realm, service)
    if retry_after := getattr(error, "retry_after", None):
        response.headers["retry-after"] = str(math.ceil(retry_after))
    for name in ("location", "range", "allow"):
        if value := error.extra.get(name):
            response.headers[name] = str(value)
    return response


def _challenge(error: WharfError, realm: str, service: str) -> str:
    parts = [f'realm="{realm}"', f'service="{service}"']
    if isinstance(error, Challenge):
        if error.scope:
            parts.append(f'scope="{error.scope}"')
        if error.insufficient:
            parts.append('error="insufficient_scope"')
    elif error.code == "token_invalid":
        parts.append('error="invalid_token"')
    return "Bearer " + ",".join(parts)
