"""A web process of the control plane that holds links, for the others to find."""

from __future__ import annotations

from django.db import models


class WebProcess(models.Model):
    """Written by the process itself: a lease it renews while it lives. `id` is what `Node.web_id` names."""

    id = models.CharField(primary_key=True, max_length=64)
    host = models.CharField(max_length=253)  # by which other web processes reach it
    port = models.PositiveIntegerField()  # of its node port
    fingerprint = models.CharField(max_length=64, db_index=True)  # sha256 of the client certificate it shows to others
    seen_at = models.DateTimeField(null=True)  # its last write of leases, database clock: an older one means that it hears nobody
    lease_until = models.DateTimeField(db_index=True)  # database clock

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
