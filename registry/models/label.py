"""Labels of repositories."""

from __future__ import annotations

from typing import Any

from django.db import models

from registry.models.repository import Repository


class Label(models.Model):
    """`key=value` on a repository; one value a key."""

    id: Any
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="labels")
    key = models.CharField(max_length=100)
    value = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["key"]
        constraints = [models.UniqueConstraint(fields=["repository", "key"], name="registry_label_once")]
        indexes = [models.Index(fields=["key", "value"], name="registry_label_value")]

    def __str__(self) -> str:
        return f"{self.key}={self.value}" if self.value else self.key
