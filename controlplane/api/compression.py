"""gzip for what browsers load: pages, styles, scripts, icons. Answers to programs stay as they are."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.text import compress_string

TYPES = ("text/html", "text/css", "text/javascript", "application/javascript", "image/svg+xml")
SMALLEST = 500  # bytes; below it the headers cost more than is won
RANDOM_BYTES = 100  # a file name of random length in each page, so that its size says nothing about a secret in it (BREACH)
BUNDLES = 64  # compressed files kept in memory, about 200 KB together
_bundles: dict[tuple[str, str], bytes] = {}


class Compression:
    """Runs in either of Django's two modes without a thread hop."""

    async_capable = True
    sync_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        answer = self.get_response(request)
        if isinstance(answer, HttpResponseBase):
            return compressed(request, answer)
        return self._later(request, answer)

    async def _later(self, request: HttpRequest, answer: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        return compressed(request, await answer)


def compressed(request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
    """`answer` with a gzip body where the browser takes one and it pays."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0]
    if answer.status_code in (204, 206, 304) or kind not in TYPES or "Content-Encoding" in answer.headers:
        return answer
    patch_vary_headers(answer, ("Accept-Encoding",))
    if request.method != "GET" or "gzip" not in request.headers.get("Accept-Encoding", ""):
        return answer
    if isinstance(answer, FileResponse) and request.path.startswith(settings.STATIC_URL):
        return _file(request, answer)
    if isinstance(answer, HttpResponse) and len(answer.content) >= SMALLEST:
        answer.content = compress_string(answer.content, max_random_bytes=RANDOM_BYTES)
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Content-Length"] = str(len(answer.content))
    return answer


def _file(request: HttpRequest, answer: FileResponse) -> HttpResponseBase:
    """A bundle: compressed once a process and version of the file."""
    key = (request.path, answer.headers.get("Last-Modified", ""))
    body = _bundles.get(key)
    if body is None:
        if len(_bundles) >= BUNDLES:
            _bundles.clear()
        body = _bundles[key] = gzip.compress(b"".join(cast(Any, answer.streaming_content)), 9, mtime=0)
    fresh = HttpResponse(body, status=answer.status_code)
    for name, value in answer.headers.items():
        fresh.headers[name] = value
    fresh.headers["Content-Encoding"] = "gzip"
    fresh.headers["Content-Length"] = str(len(body))
    answer.close()
    return fresh
