"""One-time tickets for byte streams: made over REST with the caller's rights, redeemed as a socket's first frame."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

from django.db import models

LIFETIME = timedelta(seconds=30)


def hash_ticket(text: str) -> str:
    """sha256 in hex: 256 random bits need no slow hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def new_ticket() -> str:
    return secrets.token_urlsafe(32)


class StreamTicket(models.Model):
    """Written at creation, deleted by its one redemption or by the sweep after `expires_at`."""

    id = models.CharField(primary_key=True, max_length=64)  # hash_ticket of the text
    user = models.ForeignKey("users.User", on_delete=models.CASCADE, related_name="+")
    token_id = models.CharField(max_length=25, blank=True)  # of the access token it was made with: its end ends the stream
    address = models.CharField(max_length=64, blank=True)
    target = models.CharField(max_length=16)  # logs, exec, attach
    containers = models.JSONField(default=list)  # ids of the Container rows
    service = models.CharField(max_length=25, blank=True)  # for the logs of all its tasks
    args = models.JSONField(default=dict)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.target} for {self.user_id}"

    def expired(self, now: datetime) -> bool:
        return self.expires_at <= now
