"""Times and switches of the registry, from WHARF_REGISTRY_<name> in the environment (docs/howto/push-an-image.md)."""

from __future__ import annotations

import os

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

_DEFAULTS = {
    "GC_GRACE": 2 * 3600,  # a blob without references lives this long: the time a client may take between blob and manifest
    "TRASH_WINDOW": 24 * 3600,  # a collected blob can be brought back this long
    "UNDO_WINDOW": 7 * 24 * 3600,  # deleted tags, manifests and repositories can be brought back this long
    "UPLOAD_TTL": 24 * 3600,  # an upload that nobody continues
    "REFRESH_TTL": 90 * 24 * 3600,  # refresh tokens
    "CREATE_ON_PUSH": 0,  # may a push create a repository where its pusher may create one? queries/switches.py goes before this
}


def limit(name: str) -> int:
    """A setting of the same name (tests) goes before the environment, that before the default. Seconds, or 0 and 1."""
    found = getattr(settings, f"REGISTRY_{name}", None)
    text = os.environ.get(f"WHARF_REGISTRY_{name}", "") if found is None else found
    try:
        return _DEFAULTS[name] if text == "" else int(text)
    except ValueError:
        raise ImproperlyConfigured(f"WHARF_REGISTRY_{name} must be a whole number, not {text!r}.") from None


def words(name: str) -> list[str]:
    """A setting that is a list: words between commas or blanks."""
    found = getattr(settings, f"REGISTRY_{name}", None)
    text = os.environ.get(f"WHARF_REGISTRY_{name}", "") if found is None else " ".join(found)
    return text.replace(",", " ").split()
