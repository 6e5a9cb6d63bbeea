"""Response headers that Django's own middleware does not set."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

_PERMISSIONS = "camera=(), microphone=(), geolocation=(), payment=(), usb=()"
_API = re.compile(r"^/api/")


class SecurityHeaders:
    """Frames, device rights and, for the API, no-store. Runs in either of Django's two modes without a thread hop."""

    async_capable = True
    sync_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        answer = self.get_response(request)
        if isinstance(answer, HttpResponseBase):
            return self._mark(request, answer)
        return self._later(request, answer)

    async def _later(self, request: HttpRequest, answer: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        return self._mark(request, await answer)

    @staticmethod
    def _mark(request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
        answer.headers.setdefault("X-Frame-Options", "DENY")
        answer.headers.setdefault("Permissions-Policy", _PERMISSIONS)
        answer.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if _API.match(request.path):
            answer.headers.setdefault("Cache-Control", "no-store")
        return answer
