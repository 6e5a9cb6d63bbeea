"""What happened in one repository, in words, for whoever may know it (DTR's rule: pushes and deletes for all who see the
repository; pulls, promotions, mirrors and what else its administrators set up for its administrators)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.db.models import Q, QuerySet

from controlplane import rbac
from controlplane.api.actor import Actor
from controlplane.events.models import Event
from registry.models import Repository
from registry.queries.sharing import names_of

OPEN = ("tag.pushed", "tag.deleted", "manifest.pushed", "manifest.deleted", "repository.created", "repository.updated")
OPEN_PREFIXES = ("scan.",)
_ADMINS = "Repository Policy"
# what the page offers to filter by -> kinds or prefixes with a dot at their end
GROUPS = {
    "pushes": ("tag.pushed", "manifest.pushed"),
    "deletes": ("tag.deleted", "tag.evicted", "manifest.deleted", "manifest.forgotten"),
    "settings": ("repository.",),
    "access": ("grant.",),
}


def of_repository(actor: Actor, repository: Repository) -> QuerySet[Event]:
    """Newest first. Two indexed lookups: by the repository as target, and grants on its own leaf of the tree."""
    grants = Q(kind__startswith="grant.", collection_path=repository.collection.path)
    rows = Event.objects.filter(Q(target=f"repository/{repository.pk}") | grants).order_by("-id")
    if rbac.explain(actor, _ADMINS, repository).allowed:
        return rows
    open_to_all = Q(kind__in=OPEN)
    for prefix in OPEN_PREFIXES:
        open_to_all |= Q(kind__startswith=prefix)
    return rows.filter(open_to_all)


def narrowed(rows: QuerySet[Event], kind: str = "", who: str = "") -> QuerySet[Event]:
    """`kind`: one of GROUPS, a kind, or a prefix with a dot at its end. `who`: the beginning of a name."""
    if kind:
        wanted = Q(pk__in=())
        for item in GROUPS.get(kind, (kind,)):
            wanted |= Q(kind__startswith=item) if item.endswith(".") else Q(kind=item)
        rows = rows.filter(wanted)
    return rows.filter(actor_name__startswith=who) if who else rows


def _short(digest: Any) -> str:
    return str(digest or "").partition(":")[2][:12]


def _tag_pushed(data: dict[str, Any]) -> str:
    moved = f", before {_short(data['before'])}" if data.get("before") else ""
    return f"pushed tag {data.get('tag')} ({_short(data.get('digest'))}{moved})"


def _manifest_deleted(data: dict[str, Any]) -> str:
    tags = data.get("tags") or []
    return f"removed image {_short(data.get('digest'))}" + (f" with its tags {', '.join(tags)}" if tags else "")


def _images(count: int) -> str:
    return "1 deleted image" if count == 1 else f"{count} deleted images"


def _as(tags: list[str] | None) -> str:
    return f" as {', '.join(tags)}" if tags else ""


def _subject(data: dict[str, Any]) -> str:
    kind, _, identifier = str(data.get("subject")).partition("/")
    return f"{kind} {data.get('subject_name') or identifier}"


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "tag.pushed": _tag_pushed,
    "tag.deleted": lambda data: f"removed tag {data.get('tag')} ({_short(data.get('digest'))})",
    "manifest.pushed": lambda data: f"pushed image {_short(data.get('digest'))}",
    "manifest.deleted": _manifest_deleted,
    "manifest.forgotten": lambda data: f"forgot {_images(len(data.get('digests') or []))} for good",
    "manifest.restored": lambda data: f"brought back image {_short(data.get('digest'))}{_as(data.get('tags'))}",
    "tag.restored": lambda data: f"pointed tag {data.get('tag')} back at {_short(data.get('digest'))}",
    "tag.evicted": lambda data: f"evicted tag {data.get('tag')}: the limit is {data.get('limit')} tags",
    "repository.restored": lambda data: (
        "brought the repository back" + (f" with {data['grants']} grants" if data.get("grants") else "")
    ),
    "repository.created": lambda data: f"made the repository, {data.get('visibility', 'private')}",
    "repository.updated": lambda data: f"changed {', '.join(data.get('changed') or ['nothing'])}",
    "tag.promoted": lambda data: f"promoted tag {data.get('tag')} to {data.get('target')}:{data.get('target_tag')}",
    "policy.created": lambda data: f"made the {data.get('policy')} policy",
    "policy.updated": lambda data: (
        f"changed the {data.get('policy')} policy" + ("" if data.get("enabled", True) else ", which is off")
    ),
    "policy.deleted": lambda data: f"removed the {data.get('policy')} policy",
    "registry.policy_ran": lambda data: (
        f"ran the {data.get('policy')} policy: {data.get('done')} of {data.get('looked_at')} tags"
    ),
    "grant.created": lambda data: f"gave {_subject(data)} the role {data.get('role')}",
    "grant.deleted": lambda data: f"took the role {data.get('role')} from {_subject(data)}",
}


def named(events: Iterable[Event]) -> list[Event]:
    """The events, those about grants with the name of whom they concern, where that still exists."""
    found = list(events)
    grants = {
        event.pk: str(event.data.get("subject", "")).rpartition("/")[2] for event in found if event.kind.startswith("grant.")
    }
    names = names_of(set(grants.values())) if grants else {}
    for event in found:
        if name := names.get(grants.get(event.pk, "")):
            event.data["subject_name"] = name
    return found


def sentence(event: Event) -> str:
    """What was done, without who and when: "pushed tag v1 (3f2a…)". The kind itself where there are no words for it."""
    words = _WORDS.get(event.kind)
    return words(event.data) if words else event.kind.replace(".", " ").replace("_", " ")


def who(event: Event) -> str:
    """Whose act it was, for people: a policy acts under its id."""
    return "a policy" if event.actor_kind == "system" and event.actor_name.startswith("policy/") else event.actor_name
