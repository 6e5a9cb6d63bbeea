"""Keys of the token service and the refresh tokens that it gave out."""

from __future__ import annotations

from typing import Any

from django.db import models

from controlplane.api.ids import LENGTH, new_id


class SigningKey(models.Model):
    """An ES256 key pair. The newest one signs; all that are here verify. The private half is sealed with the cluster's key."""

    kid = models.CharField(primary_key=True, max_length=64)  # RFC 7638 thumbprint
    public_pem = models.TextField()
    sealed_private = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    def __str__(self) -> str:
        return self.kid


class RefreshToken(models.Model):
    """What a client keeps instead of a password. Only the hash of the secret is stored."""

    id = models.CharField(primary_key=True, max_length=LENGTH, default=new_id)
    user_id = models.CharField(max_length=LENGTH, db_index=True)
    secret_hash = models.CharField(max_length=64)
    scopes: Any = models.JSONField(null=True)  # of the personal token that it was made from; null = the user's own rights
    client = models.CharField(max_length=100, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.id
