"""Errors as RFC 9457 problem documents: one shape for ours, REST framework's and Django's own.

{"type", "title", "status", "detail", "instance", "code", "retry", "errors": [{field, code, detail}], "request_id", ...}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.exceptions import ValidationError as ModelInvalid
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.exceptions import TemplateDoesNotExist
from django.template.loader import render_to_string
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions as rest
from rest_framework.views import set_rollback

from agent.protocol.errors import Denied, Internal, InvalidInput, NotFound, Throttled, TooLarge, Unauthenticated, WharfError
from controlplane.api.errors import MethodNotAllowed, NotAcceptable, UnsupportedMediaType

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "https://wharfinger.invalid/problems/"  # an identifier, not an address: RFC 9457 section 3.1.1
_RESERVED = frozenset({"type", "title", "status", "detail", "instance", "code", "retry", "errors", "request_id"})


def translate(error: Exception) -> WharfError | None:
    """The WharfError that says what `error` says; None when it is none of the known ones (a bug)."""
    if isinstance(error, WharfError):
        return error
    if isinstance(error, rest.APIException):
        return _from_rest(error)
    if isinstance(error, Http404):
        return NotFound("There is nothing here, or you may not see it.")
    if isinstance(error, PermissionDenied):
        return Denied(str(error) or "You may not do this.")
    if isinstance(error, ModelInvalid):
        fields: Any = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
        return InvalidInput("Some fields cannot be accepted; see errors.", errors=list(_flatten(fields)))
    if isinstance(error, RequestDataTooBig):
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return TooLarge(f"The body is larger than {limit} bytes.", limit=limit)
    if isinstance(error, SuspiciousOperation):
        return InvalidInput("The request was refused: its headers or its body are malformed.")
    return None


def _from_rest(error: rest.APIException) -> WharfError:
    simple: dict[type[rest.APIException], type[WharfError]] = {
        rest.ParseError: InvalidInput,
        rest.NotAuthenticated: Unauthenticated,
        rest.AuthenticationFailed: Unauthenticated,
        rest.PermissionDenied: Denied,
        rest.NotFound: NotFound,
        rest.MethodNotAllowed: MethodNotAllowed,
        rest.UnsupportedMediaType: UnsupportedMediaType,
        rest.NotAcceptable: NotAcceptable,
    }
    if isinstance(error, rest.ValidationError):
        return InvalidInput("Some fields cannot be accepted; see errors.", errors=list(_flatten(error.detail)))
    if isinstance(error, rest.Throttled):
        wait = float(getattr(error, "wait", None) or 1)
        return Throttled(f"Too many requests: try again in {int(wait) + 1} seconds.", retry_after=wait)
    for kind, ours in simple.items():
        if isinstance(error, kind):
            return ours(str(error.detail))
    return Internal(str(error.detail))


def _flatten(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    if isinstance(detail, Mapping):
        for key, value in detail.items():
            name = "" if key in {"non_field_errors", "__all__"} else str(key)
            yield from _flatten(value, f"{path}.{name}".strip("."))
    elif isinstance(detail, list | tuple):
        for index, value in enumerate(detail):
            yield from _flatten(value, f"{path}[{index}]" if isinstance(value, Mapping | list) else path)
    else:
        yield {"field": path, "code": str(getattr(detail, "code", "invalid")), "detail": str(detail)}


def document(error: WharfError, instance: str = "") -> dict[str, Any]:
    """`error` as a problem document."""
    context = structlog.contextvars.get_contextvars()
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + error.code,
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        "retry": error.retry,
        "errors": error.extra.get("errors", []),
        "request_id": str(context.get("request_id", "")),
    }
    body.update({key: value for key, value in error.extra.items() if key not in _RESERVED})
    return body


def response(error: WharfError, request: HttpRequest | None = None) -> HttpResponse:
    """A problem document as a plain Django response, with the headers that belong to its status."""
    body = document(error, request.path if request is not None else "")
    answer = HttpResponse(json.dumps(body, default=str), status=error.status, content_type=CONTENT_TYPE)
    answer["X-Request-ID"] = body["request_id"]
    if isinstance(error, Throttled):
        answer["Retry-After"] = str(int(error.retry_after) + 1)
    if error.status == 401:
        answer["WWW-Authenticate"] = 'Bearer realm="wharf"'
    answer["Cache-Control"] = "no-store"
    return answer


def handler(error: Exception, context: dict[str, Any]) -> HttpResponse | None:
    """REST framework's exception handler."""
    known = translate(error)
    if known is None:
        return None  # Django logs the traceback and calls handler500
    set_rollback()
    answer = response(known, context["request"]._request)
    if isinstance(error, rest.MethodNotAllowed):
        answer["Allow"] = ", ".join(context["view"].allowed_methods)
    return answer


def _failure(error: WharfError) -> dict[str, Any]:
    return {"error": error, "request_id": structlog.contextvars.get_contextvars().get("request_id", "")}


def wants_problem(request: HttpRequest) -> bool:
    """Does this request belong to a program rather than to a browser page?"""
    return request.path.startswith("/api/") or "text/html" not in request.headers.get("Accept", "")


def _page(request: HttpRequest, error: WharfError) -> HttpResponse:
    if not wants_problem(request):
        title = HTTPStatus(error.status).phrase
        try:
            # a page about our own failure asks nobody anything: what failed may be the database that a context processor needs
            if error.status >= 500:
                return HttpResponse(render_to_string(f"{error.status}.html", _failure(error)), status=error.status)
            return render(request, f"{error.status}.html", {"error": error, "title": title}, status=error.status)
        except TemplateDoesNotExist:
            log.debug("no_error_page", status=error.status)
    return response(error, request)


@csrf_exempt
def not_found(request: HttpRequest, rest: str = "") -> HttpResponse:
    """Any path under /api/ that no route takes."""
    return response(NotFound(f"There is no resource at {request.path}. GET /api/v1/schema lists them."), request)


not_found.operation = "Public"  # type: ignore[attr-defined]  # read by the route walk


def handler400(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, InvalidInput("The request was refused: its headers or its body are malformed."))


def handler403(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, Denied(str(exception) or "You may not do this."))


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, NotFound("There is nothing here, or you may not see it."))


def handler500(request: HttpRequest) -> HttpResponse:
    return _page(request, Internal("Something failed on our side; the log has the details under the request id."))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's CSRF_FAILURE_VIEW."""
    return _page(request, Denied("The form's security token is missing or stale: reload the page and send it again."))
