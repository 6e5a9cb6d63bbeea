"""/api/v1/repositories: repositories, their tags and manifests."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.oci import check_tag
from controlplane.api.views import ModelRoutes
from registry.actions import manifests, repositories
from registry.api.robots_read import ForRobots
from registry.api.serializers import (
    ManifestSerializer,
    NewRepositorySerializer,
    RepositoryChangeSerializer,
    RepositorySerializer,
    TagChangeSerializer,
    TagSerializer,
)
from registry.details import describe, find_manifest
from registry.models import Repository, TagChange
from registry.queries import listing
from registry.queries.tags import listed

_TARGET = "[A-Za-z0-9_.:-]+"
_FORCE = OpenApiParameter("force", bool, description="Also what a node runs or a service names.")
_MANIFEST = f"manifests/(?P<target>{_TARGET})"


class RepositoryFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    name = filters.CharFilter(field_name="full_name")
    namespace = filters.CharFilter(field_name="namespace__name")
    visibility = filters.ChoiceFilter(choices=Repository.Visibility.choices)
    q = filters.CharFilter(method="search", label="Words in names, descriptions, labels and tags; beginnings of digests.")
    label = filters.CharFilter(method="labelled", label='"team=web", or "team" for any value; several with commas between.')

    def search(self, rows: QuerySet[Any], name: str, value: str) -> QuerySet[Any]:
        return listing.search(rows, value)

    def labelled(self, rows: QuerySet[Any], name: str, value: str) -> QuerySet[Any]:
        return listing.labelled(rows, value.split(","))


class Repositories(ForRobots, ModelRoutes):
    """Repositories with their tags and images. Robots may read them."""

    queryset = listing.listed()
    filterset_class = RepositoryFilter
    query = frozenset({"sort", "force"})
    ordering: tuple[str, ...] = ("full_name",)
    allow_anonymous = True  # public repositories are for everybody; `visible` and `require` decide
    operations = {
        "list": "Repository View",
        "retrieve": "Repository View",
        "create": "Repository Create",
        "partial_update": "Repository Update",
        "destroy": "Repository Delete",
        "tags": "Repository View",
        "delete_tag": "Repository Tag Delete",
        "history": "Repository View",
        "manifest": "Repository Pull",
        "delete_manifest": "Repository Tag Delete",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewRepositorySerializer,
            "partial_update": RepositoryChangeSerializer,
            "tags": TagSerializer,
            "history": TagChangeSerializer,
            "manifest": ManifestSerializer,
        }.get(self.action, RepositorySerializer)

    @extend_schema(parameters=[OpenApiParameter("sort", str, description=f"{', '.join(listing.SORTS)}; -pulls: the most first")])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        self.ordering = listing.ordering(request.query_params.get("sort") or "name")
        return super().list(request, *args, **kwargs)

    def _shown(self, row: Repository) -> dict[str, Any]:
        return RepositorySerializer(self.queryset.get(pk=row.pk)).data

    @extend_schema(responses={201: RepositorySerializer})
    def create(self, request: Request) -> Response:
        data = self.validated()
        # Whether the caller may is decided on the namespace, which may have no row yet: the action asks.
        row = repositories.create_repository(self.actor, data.pop("name"), **data)
        location = f"/api/v1/repositories/{row.pk}"
        return self.tagged(row, self._shown(row), code=status.HTTP_201_CREATED, location=location)

    @extend_schema(responses=RepositorySerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = repositories.update_repository(self.actor, self.get_object(), self.expected(), **self.validated())
        return self.tagged(row, self._shown(row))

    @extend_schema(parameters=[_FORCE])
    def destroy(self, request: Request, pk: str) -> Response:
        repositories.delete_repository(self.actor, self.get_object(), self.expected(), force=self._forced())
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _forced(self) -> bool:
        return bool(self.request.query_params.get("force", "") == "true")

    def _page(self, rows: QuerySet[Any], *ordering: str) -> Response:
        self.ordering = ordering
        return self.get_paginated_response(self.get_serializer(self.paginate_queryset(rows), many=True).data)

    @extend_schema(responses=TagSerializer(many=True))
    @action(detail=True, methods=["get"], filterset_class=None)
    def tags(self, request: Request, pk: str) -> Response:
        """Newest first."""
        return self._page(listed(self.get_object()), "-pushed_at", "-pk")

    @extend_schema(parameters=[_FORCE], responses={204: None})
    @action(detail=True, methods=["delete"], url_path=f"tags/(?P<tag>{_TARGET})")
    def delete_tag(self, request: Request, pk: str, tag: str) -> Response:
        """The name only; the manifest stays."""
        manifests.delete_tag(self.actor, self.get_object().full_name, check_tag(tag), force=self._forced())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(responses=TagChangeSerializer(many=True))
    @action(detail=True, methods=["get"], filterset_class=None)
    def history(self, request: Request, pk: str) -> Response:
        """Where the tags pointed, and who moved them."""
        return self._page(TagChange.objects.filter(repository=self.get_object()), "-at", "-pk")

    @extend_schema(responses=ManifestSerializer)
    @action(
        detail=True, methods=["get"], url_path=f"manifests/(?P<target>{_TARGET})", pagination_class=None, filterset_class=None
    )
    def manifest(self, request: Request, pk: str, target: str) -> Response:
        """By tag or digest: layers, config, history, images of an index."""
        return Response(ManifestSerializer(describe(find_manifest(self.get_object(), target))).data)

    @extend_schema(parameters=[_FORCE], responses={204: None})
    @manifest.mapping.delete
    def delete_manifest(self, request: Request, pk: str, target: str) -> Response:
        """By digest: the manifest and every tag that points at it."""
        manifests.delete_manifest(self.actor, self.get_object().full_name, target, force=self._forced())
        return Response(status=status.HTTP_204_NO_CONTENT)
