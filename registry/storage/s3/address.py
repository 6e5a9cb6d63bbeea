"""Where an S3 store is: s3://bucket/prefix?endpoint=…&region=…&redirect=1&part=16."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from django.core.exceptions import ImproperlyConfigured

LEAST_PART = 5 << 20  # S3's own limit for every part but the last
OPTIONS = {"endpoint", "region", "redirect", "part"}


@dataclass(frozen=True, slots=True)
class Address:
    """`prefix` is "" or ends with "/". `part` in bytes. `redirect`: send clients to presigned addresses instead of streaming."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    redirect: bool = False
    part: int = 8 << 20

    @classmethod
    def parse(cls, location: str) -> Address:
        """Raises ImproperlyConfigured with what to write instead."""
        parts = urlsplit(location)
        if not parts.hostname or parts.username or parts.port:
            raise ImproperlyConfigured(
                "WHARF_BLOB_STORE must look like s3://bucket/prefix?endpoint=https://host:port; credentials come from the"
                " environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), a profile or the instance's role, never from here."
            )
        options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if unknown := sorted(set(options) - OPTIONS):
            raise ImproperlyConfigured(f"An S3 blob store has no option {unknown[0]!r}; it has {', '.join(sorted(OPTIONS))}.")
        prefix = parts.path.strip("/")
        return cls(
            parts.netloc,
            f"{prefix}/" if prefix else "",
            options.get("endpoint", ""),
            options.get("region", ""),
            options.get("redirect", "0") not in {"", "0", "no", "false"},
            _part(options.get("part", "8")),
        )


def _part(text: str) -> int:
    try:
        size = int(text) << 20
    except ValueError:
        size = 0
    if not LEAST_PART <= size <= 1 << 30:
        raise ImproperlyConfigured(f"The part size of an S3 blob store is between 5 and 1024 MiB, not {text!r}.")
    return size
