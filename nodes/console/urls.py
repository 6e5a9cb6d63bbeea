"""The fleet's pages."""

from __future__ import annotations

from django.urls import path

from nodes.console.containers import ContainerChart, ContainerDetail, ContainerLogs, Containers, ContainerTerminal
from nodes.console.nodes import FleetChart, NodeChart, NodeDetail, Nodes
from nodes.console.services import ServiceCreate, ServiceDetail, ServiceEdit, ServiceLogs, Services, ServiceSpecTab

urlpatterns = [
    path("services", Services.as_view(), name="services"),
    path("services/new", ServiceCreate.as_view(), name="service-new"),
    path("services/by-name/<str:name>", ServiceDetail.as_view(), name="service"),
    path("services/by-name/<str:name>/logs", ServiceLogs.as_view(), name="service-logs"),
    path("services/by-name/<str:name>/spec", ServiceSpecTab.as_view(), name="service-spec"),
    path("services/by-name/<str:name>/edit", ServiceEdit.as_view(), name="service-edit"),
    path("containers", Containers.as_view(), name="containers"),
    path("containers/<slug:pk>", ContainerDetail.as_view(), name="container"),
    path("containers/<slug:pk>/logs", ContainerLogs.as_view(), name="container-logs"),
    path("containers/<slug:pk>/terminal", ContainerTerminal.as_view(), name="container-terminal"),
    path("containers/<slug:pk>/chart/<str:kind>", ContainerChart.as_view(), name="container-chart"),
    path("nodes", Nodes.as_view(), name="nodes"),
    path("nodes/chart/<str:kind>", FleetChart.as_view(), name="fleet-chart"),
    path("nodes/<slug:pk>", NodeDetail.as_view(), name="node"),
    path("nodes/<slug:pk>/chart/<str:kind>", NodeChart.as_view(), name="node-chart"),
]
