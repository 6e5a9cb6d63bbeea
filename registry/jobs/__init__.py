"""Background work of the registry: one file a noun. Each keeps its kinds and their schedules; they are found from here."""

from __future__ import annotations

from registry.jobs import collection, keys, mirrors, policies, proxies, react, stores, uploads, usage, webhooks

_NOUNS = (
    collection,
    keys,
    mirrors,
    policies,
    proxies,
    react,
    stores,
    uploads,
    usage,
    webhooks,
)
SCHEDULES = [schedule for noun in _NOUNS for schedule in noun.SCHEDULES]
