"""What administrators switch while the registry runs."""

from __future__ import annotations

from django.db import models


class Setting(models.Model):
    """One switch that differs from the environment's or the built-in value (registry.switches). No row: that value holds."""

    name = models.CharField(max_length=50, primary_key=True)
    value = models.BooleanField()
    changed_by = models.CharField(max_length=150)
    changed_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.name} {self.value}"
