"""Which operation a route asks for: read from views, walked by a test over the whole URLconf.

Plain Django views name theirs with `@operation("Node View")`, class-based ones by an attribute `operation` (a name, or a dict by
method), REST views by `operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from django.urls import URLPattern, URLResolver

ViewT = TypeVar("ViewT", bound=Callable[..., Any])


def operation(name: str) -> Callable[[ViewT], ViewT]:
    """Names the operation of a plain Django view (function). The view itself still calls `require`."""

    def mark(view: ViewT) -> ViewT:
        view.operation = name  # type: ignore[attr-defined]  # read by operations_of
        return view

    return mark


def operations_of(callback: Any) -> dict[str, str | None]:
    """Method or action -> operation that `callback` names; None where it names none."""
    cls = getattr(callback, "cls", None)
    if cls is not None:  # REST framework
        named: dict[str, str] = getattr(cls, "operations", {})
        actions = set(getattr(callback, "actions", None) or ()) and set(callback.actions.values())
        if not actions:
            actions = {method for method in ("get", "post", "put", "patch", "delete") if hasattr(cls, method)}
        return {action: named.get(action) for action in sorted(actions)}
    own = getattr(callback, "operation", None) or getattr(getattr(callback, "view_class", None), "operation", None)
    if isinstance(own, dict):
        return dict(own)
    return {"*": own}


def walk(patterns: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(route, callback) of every pattern below `patterns`."""
    for item in patterns:
        route = prefix + str(item.pattern)
        if isinstance(item, URLResolver):
            yield from walk(item.url_patterns, route)
        elif isinstance(item, URLPattern):
            yield route, item.callback
