"""The console's small parts: icons, states, ages, digests, sizes, commands to copy."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

# state word -> (tone, icon). Tones are the six of docs/console: colour, icon and word always come together.
STATES: dict[str, tuple[str, str]] = {
    **{word: ("running", "circle-check") for word in ("running", "ready", "healthy", "active", "done", "complete", "succeeded")},
    **{
        word: ("working", "loader-2")
        for word in (
            "new",
            "pending",
            "assigned",
            "accepted",
            "preparing",
            "starting",
            "queued",
            "updating",
            "rolling back",
            "restarting",
        )
    },
    **{
        word: ("degraded", "alert-triangle")
        for word in ("degraded", "suspect", "pause", "paused", "unhealthy", "waiting", "lost")
    },
    **{word: ("failed", "circle-x") for word in ("failed", "down", "rejected", "error", "dead")},
    **{
        word: ("stopped", "circle")
        for word in ("stopped", "shutdown", "remove", "exited", "created", "drain", "left", "cancelled", "empty")
    },
    **{word: ("unknown", "question-mark") for word in ("unknown", "orphaned")},
}


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """An icon of the sprite; decorative unless it has a label."""
    href = f"{static('vendor/icons.svg')}#{name}"
    if label:
        return format_html('<svg class="icon" role="img" aria-label="{}"><use href="{}"/></svg>', label, href)
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}"/></svg>', href)


@register.simple_tag
def state(word: Any, text: str = "") -> SafeString:
    """A state as colour, icon and word."""
    key = str(word).lower()
    tone, symbol = STATES.get(key, ("unknown", "question-mark"))
    return format_html('<span class="state" data-state="{}">{}{}</span>', tone, icon(symbol), text or key)


@register.simple_tag
def ago(at: datetime | None) -> SafeString:
    """A relative time that counts on, with the exact time on hover."""
    if at is None:
        return mark_safe('<span class="muted">never</span>')  # a constant
    seconds = (timezone.now() - at).total_seconds()
    return format_html(
        '<time datetime="{}" data-at="{}" title="{}">{}</time>',
        at.isoformat(),
        int(at.timestamp()),
        at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        age(seconds),
    )


def age(seconds: float) -> str:
    """ "3 min ago", "in 2 h", "now": the same words as the browser's."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if abs(seconds) >= size:
            text = f"{int(abs(seconds) // size)} {unit}"
            return f"in {text}" if seconds < 0 else f"{text} ago"
    return "now"


@register.simple_tag
def short(text: str, what: str = "id") -> SafeString:
    """The first 12 characters of an id or digest, whole on hover, with a button that copies all of it."""
    text = str(text or "")
    shown = text.removeprefix("sha256:")[:12]
    return format_html('<span class="mono" title="{}">{}</span>{}', text, shown, copy(text, f"Copy {what}"))


@register.simple_tag
def copy(text: str, label: str = "Copy") -> SafeString:
    return format_html(
        '<button type="button" class="copy" data-copy="{}" aria-label="{}" title="{}">{}</button>',
        text,
        label,
        label,
        icon("copy"),
    )


@register.simple_tag
def command(text: str) -> SafeString:
    """A line to run, with a button that copies it."""
    return format_html(
        '<div class="command" role="group" aria-label="Command"><code>{}</code>{}</div>', text, copy(text, "Copy command")
    )


@register.filter
def size(value: int | float | None) -> str:
    """Bytes for people: 1536 -> "1.5 KiB"."""
    amount = float(value or 0)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit returns")


@register.filter
def cores(nano_cpus: int | None) -> str:
    """Nano-CPUs as cores: 1500000000 -> "1.5"."""
    return f"{(nano_cpus or 0) / 1e9:g}"


@register.filter
def item(mapping: Any, key: Any) -> Any:
    return mapping.get(key) if mapping else None
