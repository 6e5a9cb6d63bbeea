"""How many bytes a namespace may hold."""

from __future__ import annotations

from django.db import models

from registry.models.repository import Namespace


class Quota(models.Model):
    """Each blob counts once a namespace, from its first link there to its last. No row: no limit, and nothing is counted.

    `used` and `reserved` are written by registry.actions.quotas alone, each time by one short UPDATE at the end of a transaction.
    """

    namespace = models.OneToOneField(Namespace, on_delete=models.CASCADE, primary_key=True, related_name="quota")
    limit = models.BigIntegerField()  # bytes
    used = models.BigIntegerField(default=0)
    reserved = models.BigIntegerField(default=0)  # by uploads that are under way
    warned = models.BooleanField(default=False)  # the event of this crossing of the warning line was recorded
    set_by = models.CharField(max_length=150, blank=True)
    counted_at = models.DateTimeField(null=True, blank=True)  # the last time that `used` was proved against the links

    def __str__(self) -> str:
        return f"{self.namespace_id} {self.used}/{self.limit}"
