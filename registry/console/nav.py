"""The registry's entries in the rail."""

from __future__ import annotations

from controlplane.console.nav import NavEntry

NAV = (
    NavEntry("Registry", "Repositories", "repositories", "packages", "Repository View", go="r"),
    NavEntry("Registry", "Robots", "robots", "id-badge", "Robot View", go="b"),
    NavEntry("Registry", "Storage", "storage", "database", "Registry View", go="d"),
    NavEntry("Registry", "Proxies", "proxies", "refresh", "Registry Proxy"),
    NavEntry("Registry", "Read-only", "read-only", "lock", "Registry View"),
)
