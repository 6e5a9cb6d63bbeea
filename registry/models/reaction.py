"""How far each reaction has read the events."""

from __future__ import annotations

from django.db import models


class ReactionCursor(models.Model):
    """One row a reaction, written by registry.actions.reactions alone: everything up to and with event `position` is done."""

    name = models.CharField(primary_key=True, max_length=60)
    position = models.BigIntegerField()
    attempts = models.PositiveSmallIntegerField(default=0)  # failed ones on the event after `position`
    retry_at = models.DateTimeField(null=True, blank=True)  # null: go on
    error = models.CharField(max_length=500, blank=True)  # of the last failed attempt
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.name} {self.position}"
