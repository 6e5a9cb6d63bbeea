"""Times and sizes of the registry, in seconds and bytes. Settings of the same name with REGISTRY_ before it overrule them."""

from __future__ import annotations

from django.conf import settings

_DEFAULTS = {
    "GC_GRACE": 2 * 3600,  # a blob without references lives this long: the time a client may take between blob and manifest
    "TRASH_WINDOW": 24 * 3600,  # a collected blob can be brought back this long
    "UPLOAD_TTL": 24 * 3600,  # an upload that nobody continues
    "REFRESH_TTL": 90 * 24 * 3600,  # refresh tokens
    "CREATE_ON_PUSH": 1,  # may a push create a repository where its pusher may create one?
}


def limit(name: str) -> int:
    return int(getattr(settings, f"REGISTRY_{name}", _DEFAULTS[name]))
