"""Lists: a JSON array a page, the way to the others in the Link header (RFC 8288), no totals."""

from __future__ import annotations

from typing import Any

from rest_framework.pagination import CursorPagination
from rest_framework.response import Response


class LinkPagination(CursorPagination):
    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 500
    ordering = ("-created_at", "-pk")
    invalid_cursor_message = "The cursor is not one of ours: start again without it."

    def get_ordering(self, request: Any, queryset: Any, view: Any) -> tuple[str, ...]:
        """The view's own `ordering` (names, sizes are no input: clients choose nothing here), else newest first."""
        own = getattr(view, "ordering", None) or self.ordering
        return (own,) if isinstance(own, str) else tuple(own)

    def get_paginated_response(self, data: Any) -> Response:
        links = [
            f'<{url}>; rel="{name}"' for url, name in ((self.get_next_link(), "next"), (self.get_previous_link(), "prev")) if url
        ]
        return Response(data, headers={"Link": ", ".join(links)} if links else None)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return schema
