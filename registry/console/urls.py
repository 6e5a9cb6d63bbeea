"""The registry's pages."""

from __future__ import annotations

from django.urls import path, re_path

from registry.console.deleted import DeletedRepositories
from registry.console.history import History
from registry.console.images import ManifestDetail
from registry.console.info import Info, Settings
from registry.console.policies import Policies, PolicyDraft
from registry.console.promote import Promote
from registry.console.readonly import ReadOnlySwitch
from registry.console.repositories import Repositories
from registry.console.tags import Tags

NAME = r"(?P<name>[a-z0-9][a-z0-9._/-]*?)"

# What follows `/-/` is no part of a repository's name: no component of one may be a single dash.
urlpatterns = [
    path("repositories", Repositories.as_view(), name="repositories"),
    path("deleted-repositories", DeletedRepositories.as_view(), name="deleted-repositories"),
    path("read-only", ReadOnlySwitch.as_view(), name="read-only"),
    re_path(rf"^repositories/{NAME}/-/(?P<digest>sha(?:256|512):[a-f0-9]+)$", ManifestDetail.as_view(), name="manifest"),
    re_path(rf"^repositories/{NAME}/-/history$", History.as_view(), name="repository-history"),
    re_path(rf"^repositories/{NAME}/-/policies$", Policies.as_view(), name="repository-policies"),
    re_path(rf"^repositories/{NAME}/-/policies/draft$", PolicyDraft.as_view(), name="policy-draft"),
    re_path(rf"^repositories/{NAME}/-/promote$", Promote.as_view(), name="repository-promote"),
    re_path(rf"^repositories/{NAME}/-/info$", Info.as_view(), name="repository-info"),
    re_path(rf"^repositories/{NAME}/-/settings$", Settings.as_view(), name="repository-settings"),
    re_path(rf"^repositories/{NAME}$", Tags.as_view(), name="repository"),
]
