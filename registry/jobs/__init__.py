"""Background work of the registry: one file a noun. Each keeps its kinds and their schedules; they are found from here."""

from __future__ import annotations

from registry.jobs import collection, keys, policies, react, uploads, usage

SCHEDULES = [
    *collection.SCHEDULES,
    *uploads.SCHEDULES,
    *keys.SCHEDULES,
    *policies.SCHEDULES,
    *react.SCHEDULES,
    *usage.SCHEDULES,
]
