"""Switches that administrators change while the registry runs; what they did not touch comes from the environment."""

from __future__ import annotations

from registry.limits import limit
from registry.models import Setting

# name -> (the limit that gives its value until somebody changes it, what it means)
SWITCHES = {
    "create_on_push": (
        "CREATE_ON_PUSH",
        "A push creates the repository when it is missing and the pusher may create it there.",
    ),
}


def value(name: str) -> bool:
    changed = Setting.objects.filter(name=name).values_list("value", flat=True).first()
    return bool(limit(SWITCHES[name][0])) if changed is None else changed


def create_on_push() -> bool:
    """May a push create a repository where its pusher may create one?"""
    return value("create_on_push")
