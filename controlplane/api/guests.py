"""Guests are plugged in by name. A module that a guest does not have is skipped; a broken import inside one is an error."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from django.conf import settings


def optional(name: str) -> ModuleType | None:
    """The module `name`, None only when it (or a package above it) does not exist."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            return None
        raise


def modules(suffix: str) -> Iterator[ModuleType]:
    """`<guest>.<suffix>` of each guest that has it, in the order of settings.GUESTS: modules("api.urls")."""
    for guest in settings.GUESTS:
        found = optional(f"{guest}.{suffix}")
        if found is not None:
            yield found
