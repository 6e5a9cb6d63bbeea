"""Secrets in rows: sealed with the cluster's key, bound to the row they stand in, as text."""

from __future__ import annotations

import base64

from controlplane.pki import vault


def seal(text: str, bound_to: str) -> str:
    """`bound_to`, "webhook:<id>", must be the same when it is opened: a secret moved to another row is worth nothing."""
    return base64.b64encode(vault.seal(text.encode(), f"registry:{bound_to}")).decode("ascii") if text else ""


def unseal(sealed: str, bound_to: str) -> str:
    """Raises Internal when it does not open here."""
    return vault.unseal(base64.b64decode(sealed), f"registry:{bound_to}").decode() if sealed else ""
