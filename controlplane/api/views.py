"""Base classes of the REST routes. Each action names its operation in `operations`; the answer to who may do it is one call."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from django.db import models
from django.http import HttpResponse
from rest_framework import status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSetMixin

from agent.protocol.errors import Internal, InvalidInput
from controlplane.api import access, idempotency, versions
from controlplane.api.access import AUTHENTICATED, PUBLIC
from controlplane.api.actor import Actor, actor_of
from controlplane.api.permissions import operation_of

__all__ = ["AUTHENTICATED", "PUBLIC", "ApiView", "ModelRoutes", "VersionedMixin"]

_ALWAYS = frozenset({"cursor", "limit"})


class ApiView(GenericAPIView[Any]):
    """A view whose `operations` map an action (viewsets) or a lower-case method to an operation, PUBLIC or AUTHENTICATED.

    `allow_anonymous` lets callers without an account through to `require`, which then decides (public repositories).
    `secret_answer` keeps the answer of a POST out of the table of idempotency keys. `query` are accepted query parameters beyond
    the filters; an unknown one is refused, because a filter with a typing error would answer with everything.
    """

    operations: ClassVar[dict[str, str]] = {}
    allow_anonymous: ClassVar[bool] = False
    secret_answer: ClassVar[bool] = False
    query: ClassVar[frozenset[str]] = frozenset()
    filterset_class: Any = None

    @property
    def actor(self) -> Actor:
        return actor_of(self.request)

    @property
    def operation(self) -> str:
        return operation_of(self, self.request) or ""

    def require(self, target: Any = None, *, gates: frozenset[str] = frozenset(), operation: str | None = None) -> None:
        """Asks the access port for this action's operation (or `operation`) on `target`."""
        access.require(self.actor, operation or self.operation, target, gates=gates)

    def validated(self, **options: Any) -> dict[str, Any]:
        """The request's body through the action's serializer. Unknown fields are refused, not ignored."""
        serializer = self.get_serializer(data=self.request.data, **options)
        refuse_unknown(self.request.data, serializer)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        access.begin()
        super().initial(request, *args, **kwargs)
        self._refuse_unknown_query(request)
        if request.method == "POST":
            key = idempotency.key_of(request)
            if key and self.actor.kind != "anonymous":
                # dispatch looks the handler up after this: the instance's own attribute goes before the class's
                self.__dict__["post"] = partial(self._once, getattr(self, "post", self.http_method_not_allowed), key)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuses to answer when the handler named an operation and never asked for it: a forgotten check must not go unseen."""
        unasked = response.status_code < 400 and "Idempotent-Replay" not in response and request.method != "OPTIONS"
        if unasked and self.operation not in {PUBLIC, AUTHENTICATED} and not access.asked():
            raise Internal(f"{type(self).__name__} answered {request.method} without asking for {self.operation}.")
        return super().finalize_response(request, response, *args, **kwargs)

    def _once(self, handler: Any, key: str, request: Request, *args: Any, **kwargs: Any) -> Response | HttpResponse:
        return idempotency.run(self, request, self.actor, key, partial(handler, request, *args, **kwargs))

    def _refuse_unknown_query(self, request: Request) -> None:
        filters = getattr(self, "filterset_class", None)
        known = {*_ALWAYS, *self.query, *(filters.base_filters if filters else ())}
        if unknown := sorted(set(request.query_params) - known):
            raise InvalidInput(f"Unknown query parameters: {', '.join(unknown)}. Known here: {', '.join(sorted(known))}.")


def refuse_unknown(data: Any, serializer: Any) -> None:
    """Raises InvalidInput naming the fields of `data` that `serializer` does not write."""
    if not isinstance(data, dict):
        raise InvalidInput("The body must be a JSON object.")
    writable = {name for name, field in serializer.fields.items() if not field.read_only}
    if unknown := sorted(set(data) - writable):
        errors = [
            {"field": name, "code": "unknown", "detail": "This field does not exist or cannot be written."} for name in unknown
        ]
        raise InvalidInput(f"Unknown fields: {', '.join(unknown)}.", errors=errors)


class VersionedMixin:
    """ETag on answers, If-Match on writes, for rows with a `version`."""

    request: Any

    def expected(self) -> int | None:
        """The version the caller changed; 428 when If-Match is absent."""
        return versions.expected_version(self.request)

    def tagged(self, row: Any, data: Any, *, code: int = status.HTTP_200_OK, location: str = "") -> Response:
        """An answer with the row's ETag, and its Location when it is new."""
        headers = {"ETag": versions.etag(row)}
        if location:
            headers["Location"] = location
        if (
            code == status.HTTP_200_OK
            and self.request.method == "GET"
            and self.request.headers.get("If-None-Match") == headers["ETag"]
        ):
            return Response(status=status.HTTP_304_NOT_MODIFIED, headers=headers)
        return Response(data, status=code, headers=headers)


class ModelRoutes(VersionedMixin, ViewSetMixin, ApiView):
    """Routes of one model: `list` and `retrieve` are here, each write is a method of the subclass with one domain call.

    Rows are always fetched through `visible`: what may not be seen is not found. Then the action's operation is required on it.
    """

    queryset: Any = None
    lookup_value_regex = "[A-Za-z0-9._-]+"

    def get_queryset(self) -> models.QuerySet[Any]:
        if getattr(self, "swagger_fake_view", False):
            return self.queryset.none()  # type: ignore[no-any-return]  # the schema is made without a caller
        return access.visible(self.actor, self.queryset.all())

    def get_object(self) -> Any:
        row = super().get_object()
        self.require(row)
        return row

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        row = self.get_object()
        data = self.get_serializer(row).data
        return self.tagged(row, data) if hasattr(row, "version") else Response(data)
