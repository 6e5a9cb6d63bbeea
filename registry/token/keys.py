"""ES256 keys of the token service: rows, so that all replicas share them and a rotation needs no restart.

The newest key signs. Every key in the table verifies; `rotate` removes keys that no living token can carry any more. A process
that meets an unknown kid looks into the table again, at most once a second.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.db import transaction
from django.utils import timezone

from controlplane.pki import vault
from registry.models import SigningKey

MAX_TOKEN_SECONDS = 3600
REREAD_SECONDS = 1.0  # a flood of forged kids costs one query a second
REFRESH_SECONDS = 60.0  # how long another replica goes on signing with the key before

Private = ec.EllipticCurvePrivateKey
Public = ec.EllipticCurvePublicKey


class _Ring:
    """This process's copy of the table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._public: dict[str, Public] = {}
        self._signer: tuple[str, Private] | None = None
        self._read_at = float("-inf")
        self._looked_at = float("-inf")  # the last reading for an unknown kid; the signer's own readings do not delay one

    def signer(self) -> tuple[str, Private]:
        with self._lock:
            if self._signer is None or time.monotonic() - self._read_at > REFRESH_SECONDS:
                self._read()
            if self._signer is None:
                _create()
                self._read()
            assert self._signer is not None  # noqa: S101  # _create made one
            return self._signer

    def public(self, kid: str) -> Public | None:
        with self._lock:
            if kid not in self._public and time.monotonic() - self._looked_at > REREAD_SECONDS:
                self._looked_at = time.monotonic()
                self._read()
            return self._public.get(kid)

    def forget(self) -> None:
        with self._lock:
            self._public, self._signer, self._read_at, self._looked_at = {}, None, float("-inf"), float("-inf")

    def _read(self) -> None:
        rows = list(SigningKey.objects.order_by("-created_at", "kid"))
        self._read_at = time.monotonic()
        self._public = {row.kid: _load_public(row.public_pem) for row in rows}
        if rows and (self._signer is None or self._signer[0] != rows[0].kid):
            self._signer = (rows[0].kid, _unseal(rows[0]))
        elif not rows:
            self._signer = None


ring = _Ring()


def rotate() -> str:
    """Make a new signing key, drop those that can have signed no living token, and return the new kid."""
    old = timezone.now() - timedelta(seconds=MAX_TOKEN_SECONDS + 2 * REFRESH_SECONDS)
    with transaction.atomic():
        newest_before = SigningKey.objects.order_by("-created_at").first()
        kid = _create()
        if newest_before is not None:
            # A key retires when its successor comes: only those older than the one that retires now, and old enough, go.
            SigningKey.objects.filter(created_at__lt=old).exclude(kid__in=[kid, newest_before.kid]).delete()
    ring.forget()
    return kid


def _create() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    kid = thumbprint(key.public_key())
    SigningKey.objects.create(
        kid=kid,
        public_pem=key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii"),
        sealed_private=_seal(kid, key),
    )
    return kid


def thumbprint(key: Public) -> str:
    """RFC 7638 of an EC P-256 key."""
    numbers = key.public_numbers()
    fields = {"crv": "P-256", "kty": "EC", "x": _b64(numbers.x), "y": _b64(numbers.y)}
    return _encode(hashlib.sha256(json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()).digest())


def _b64(number: int) -> str:
    return _encode(number.to_bytes(32, "big"))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _seal(kid: str, key: Private) -> str:
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return base64.b64encode(vault.seal(der, f"registry-key:{kid}")).decode("ascii")


def _unseal(row: SigningKey) -> Private:
    der = vault.unseal(base64.b64decode(row.sealed_private), f"registry-key:{row.kid}")
    key: Any = serialization.load_der_private_key(der, None)
    return key  # type: ignore[no-any-return]  # P-256 by construction


def _load_public(pem: str) -> Public:
    key: Any = serialization.load_pem_public_key(pem.encode("ascii"))
    return key  # type: ignore[no-any-return]  # likewise
