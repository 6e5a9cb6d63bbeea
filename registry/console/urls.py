"""The registry's pages."""

from __future__ import annotations

from django.urls import path, re_path

from registry.console.activity import Activity
from registry.console.deleted import DeletedRepositories
from registry.console.history import History
from registry.console.images import Compare, ManifestDetail
from registry.console.info import Info, Settings
from registry.console.mirrors import Mirrors
from registry.console.policies import Policies, PolicyDraft
from registry.console.promote import Promote
from registry.console.proxies import Proxies, ProxyDetail
from registry.console.readonly import ReadOnlySwitch
from registry.console.repositories import Repositories
from registry.console.robots import RobotDetail, Robots
from registry.console.sharing import Access
from registry.console.storage import Storage, StorageChart
from registry.console.tags import Tags
from registry.console.webhooks import WebhookLog, Webhooks

NAME = r"(?P<name>[a-z0-9][a-z0-9._/-]*?)"

# What follows `/-/` is no part of a repository's name: no component of one may be a single dash.
urlpatterns = [
    path("repositories", Repositories.as_view(), name="repositories"),
    path("robots", Robots.as_view(), name="robots"),
    path("robots/<slug:pk>", RobotDetail.as_view(), name="robot"),
    path("storage", Storage.as_view(), name="storage"),
    path("storage/chart", StorageChart.as_view(), name="storage-chart"),
    re_path(rf"^repositories/{NAME}/-/(?P<digest>sha(?:256|512):[a-f0-9]+)$", ManifestDetail.as_view(), name="manifest"),
    re_path(rf"^repositories/{NAME}/-/compare$", Compare.as_view(), name="compare"),
    path("deleted-repositories", DeletedRepositories.as_view(), name="deleted-repositories"),
    path("proxies", Proxies.as_view(), name="proxies"),
    path("proxies/<slug:pk>", ProxyDetail.as_view(), name="proxy"),
    path("read-only", ReadOnlySwitch.as_view(), name="read-only"),
    re_path(rf"^repositories/{NAME}/-/history$", History.as_view(), name="repository-history"),
    re_path(rf"^repositories/{NAME}/-/policies$", Policies.as_view(), name="repository-policies"),
    re_path(rf"^repositories/{NAME}/-/policies/draft$", PolicyDraft.as_view(), name="policy-draft"),
    re_path(rf"^repositories/{NAME}/-/promote$", Promote.as_view(), name="repository-promote"),
    re_path(rf"^repositories/{NAME}/-/info$", Info.as_view(), name="repository-info"),
    re_path(rf"^repositories/{NAME}/-/activity$", Activity.as_view(), name="repository-activity"),
    re_path(rf"^repositories/{NAME}/-/access$", Access.as_view(), name="repository-access"),
    re_path(rf"^repositories/{NAME}/-/webhooks$", Webhooks.as_view(), name="repository-webhooks"),
    re_path(rf"^repositories/{NAME}/-/webhooks/(?P<webhook>[a-z0-9]+)$", WebhookLog.as_view(), name="repository-webhook"),
    re_path(rf"^repositories/{NAME}/-/mirrors$", Mirrors.as_view(), name="repository-mirrors"),
    re_path(rf"^repositories/{NAME}/-/settings$", Settings.as_view(), name="repository-settings"),
    re_path(rf"^repositories/{NAME}$", Tags.as_view(), name="repository"),
]
