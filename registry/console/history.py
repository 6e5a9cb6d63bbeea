"""The tab History: every move of a tag and the way back; what was deleted, and until when it can return."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from agent.protocol.errors import InvalidInput
from agent.protocol.oci import Digest, check_tag
from registry.actions import trash
from registry.console.tabs import RepositoryPage
from registry.limits import limit
from registry.models import Tag, TagChange, Trashed
from registry.queries.history import tags_at

PER_PAGE = 50


class History(RepositoryPage):
    operation = {"get": "Repository View", "post": "Repository Push"}
    template = "registry/history.html"
    tab = "history"

    def tab_context(self) -> dict[str, Any]:
        row = self.repository
        tag = self.request.GET.get("tag", "").strip()
        moves = TagChange.objects.filter(repository=row)
        if tag:
            moves = moves.filter(tag=tag)
        page = Paginator(moves, PER_PAGE).get_page(self.request.GET.get("page"))
        now = dict(
            Tag.objects.filter(repository=row, name__in={move.tag for move in page}).values_list("name", "manifest__digest")
        )
        at, problem = _moment(self.request.GET.get("at", ""))
        return {
            "page": page,
            "moves": [(move, _way_back(move, now.get(move.tag, ""))) for move in page],
            "tag": tag,
            "filters": urlencode({"tag": tag}) + "&" if tag else "",
            "deleted": self._deleted(),
            "at": self.request.GET.get("at", ""),
            "problem": problem,
            "then": list(tags_at(row, at).items()) if at else None,
            "may_push": self.may("Repository Push", row),
            "may_undo": self.may("Repository Tag Delete", row),
            "may_forget": self.may("Repository Delete", row),
        }

    def _deleted(self) -> list[tuple[Trashed, datetime]]:
        window = timedelta(seconds=limit("UNDO_WINDOW"))
        rows = Trashed.objects.filter(repository=self.repository, deleted_at__gt=trash.window_start())
        return [
            (item, item.deleted_at + window) for item in rows.select_related("manifest").defer("manifest__content")[:PER_PAGE]
        ]

    def act_restore(self) -> None:
        row = self.repository
        self.require(row, operation="Repository Push")
        tag = check_tag(self.request.POST.get("tag", ""))
        digest = str(Digest.parse(self.request.POST.get("digest", "")))
        trash.restore_tag(self.actor, row, tag, digest)
        self.done(f"Tag {tag} names {digest[7:19]} again.")

    def act_undo(self) -> None:
        row = self.repository
        self.require(row, operation="Repository Tag Delete")
        digest = str(Digest.parse(self.request.POST.get("digest", "")))
        tags = trash.restore_manifest(self.actor, row, digest)
        self.done(f"The image is back{', named ' + ', '.join(tags) if tags else ''}.")

    def act_forget(self) -> None:
        row = self.repository
        self.require(row, operation="Repository Delete")
        count = trash.forget_now(self.actor, row)
        self.done(f"{count} deleted image{'' if count == 1 else 's'} can no longer return.")


def _way_back(move: TagChange, now: str) -> str:
    """The digest that a button beside the move brings back: what it made of the tag, or what it took. "" = no need."""
    wanted = move.after or move.before
    return "" if wanted == now else wanted


def _moment(text: str) -> tuple[datetime | None, str]:
    """(when, what is wrong with the text): a time without a zone is UTC."""
    if not text:
        return None, ""
    try:
        at = parse_datetime(text)
    except ValueError:
        at = None
    if at is None:
        return None, InvalidInput("a moment is a date and a time like 2026-03-01T12:00").detail
    return (at if timezone.is_aware(at) else timezone.make_aware(at)), ""
