"""The first gate of every REST route: it must name its operation, and the caller must be somebody unless it is public."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from agent.protocol.errors import Internal, Unauthenticated
from controlplane.api.access import PUBLIC
from controlplane.api.actor import actor_of


def operation_of(view: Any, request: Request) -> str | None:
    """The operation that `view` names for the action (or method) of `request`; None for a method that it does not have."""
    operations: dict[str, str] = getattr(view, "operations", {})
    action = getattr(view, "action", None) or str(request.method or "").lower()
    if action in {"head", "options", "metadata"}:
        action = "list" if "list" in operations else "retrieve" if "retrieve" in operations else "get"
    return operations.get(action)


class NamesItsOperation(BasePermission):
    def has_permission(self, request: Request, view: Any) -> bool:
        if getattr(view, request.method.lower() if request.method else "", None) is None:
            return True  # 405 comes from the dispatcher
        operation = operation_of(view, request)
        if operation is None and request.method == "OPTIONS":
            operation = next(iter(getattr(view, "operations", {}).values()), None)
        if operation is None:
            raise Internal(f"{type(view).__name__} names no operation for {request.method}.")
        if operation != PUBLIC and not getattr(view, "allow_anonymous", False) and actor_of(request).kind == "anonymous":
            raise Unauthenticated("Sign in, or send `Authorization: Bearer <token>`.")
        return True
