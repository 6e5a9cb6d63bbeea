"""The fleet's entries in the rail."""

from __future__ import annotations

from controlplane.console.nav import NavEntry

NAV = (
    NavEntry("Workloads", "Services", "services", "stack-2", "Service View", go="s"),
    NavEntry("Workloads", "Containers", "containers", "box", "Container View", go="c"),
    NavEntry("Fleet", "Nodes", "nodes", "server-2", "Node View", go="n"),
)
