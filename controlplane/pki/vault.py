"""The key encryption key: 32 random bytes in WHARF_HOME/kek (mode 0600). What it seals is worthless in a stolen database."""

from __future__ import annotations

import os
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from agent.protocol.errors import Internal
from controlplane.home import UnsafeSecret, read_or_create

_NONCE = 12


def _kek() -> AESGCM:
    key = read_or_create(settings.KEK_FILE, lambda: secrets.token_bytes(32))
    if len(key) != 32 or len(set(key)) < 8:
        raise UnsafeSecret(f"{settings.KEK_FILE} must hold 32 random bytes; restore it from the backup of this home directory.")
    return AESGCM(key)


def seal(plain: bytes, bound_to: str) -> bytes:
    """`plain` under AES-256-GCM: 12 bytes nonce, then ciphertext and tag. `bound_to` (not stored) must be equal when opened."""
    nonce = os.urandom(_NONCE)
    return nonce + _kek().encrypt(nonce, plain, bound_to.encode())


def unseal(sealed: bytes, bound_to: str) -> bytes:
    """What `seal` was given. Raises Internal when the KEK is another one or the bytes were changed or moved."""
    try:
        return _kek().decrypt(sealed[:_NONCE], sealed[_NONCE:], bound_to.encode())
    except InvalidTag:
        raise Internal(f"A sealed key does not open with {settings.KEK_FILE}: another home's, or changed.") from None
