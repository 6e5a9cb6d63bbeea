"""The OpenAPI document: operations of the catalogue on each route, one problem schema for every error."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema

PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem document.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence that says what to do."},
        "instance": {"type": "string"},
        "code": {"type": "string", "description": "Stable: compare this."},
        "retry": {"type": "boolean", "description": "May the very same request succeed later?"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "code": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "request_id": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "code", "retry"],
}


class Schema(AutoSchema):
    def get_extensions(self) -> dict[str, Any]:
        action = getattr(self.view, "action", None) or self.method.lower()
        operation = getattr(self.view, "operations", {}).get(action)
        return {"x-wharf-operation": operation} if operation else {}

    def get_tags(self) -> list[str]:
        return [self.path.removeprefix("/api/v1/").split("/")[0]]


def add_problems(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """drf-spectacular hook: each operation's `default` answer is a problem document."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM
    answer = {
        "description": "Any error.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    _drop_ranges(result["components"]["schemas"])
    for methods in result.get("paths", {}).values():
        for operation in methods.values():
            if isinstance(operation, dict) and "responses" in operation:
                operation["responses"].setdefault("default", answer)
    return result


def _drop_ranges(node: Any) -> None:
    """Removes bounds and widths of integer columns: they are the database's (SQLite's are wider), the document is for both."""
    if isinstance(node, dict):
        for name in ("minimum", "maximum"):
            value = node.get(name)
            if isinstance(value, int) and abs(value) >= 32767:
                del node[name]
        if node.get("type") == "integer" and node.get("format") == "int64":
            del node["format"]
        for item in node.values():
            _drop_ranges(item)
    elif isinstance(node, list):
        for item in node:
            _drop_ranges(item)
