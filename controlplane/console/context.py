"""What every template may use."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from controlplane.api.actor import actor_of
from controlplane.console import nav


def frame(request: HttpRequest) -> dict[str, Any]:
    """`rail`: the navigation; `actor`: who looks. Lazy: only pages with the frame ask."""
    if not getattr(request, "user", None) or not request.user.is_authenticated:
        return {}
    actor = actor_of(request)
    return {"actor": actor, "rail": lambda: nav.rail(actor)}
