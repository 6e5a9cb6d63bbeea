"""The registry's pages."""

from __future__ import annotations

from django.urls import path, re_path

from registry.console.pages import ManifestDetail, Repositories, RepositoryDetail

NAME = r"(?P<name>[a-z0-9][a-z0-9._/-]*?)"

urlpatterns = [
    path("repositories", Repositories.as_view(), name="repositories"),
    re_path(rf"^repositories/{NAME}/-/(?P<digest>sha(?:256|512):[a-f0-9]+)$", ManifestDetail.as_view(), name="manifest"),
    re_path(rf"^repositories/{NAME}$", RepositoryDetail.as_view(), name="repository"),
]
