"""What an event says to the outside: DTR's envelope or CloudEvents 1.0, about a tag, a manifest or a repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from controlplane.events.models import Event
from registry.models import Manifest, Webhook

# event -> DTR's type; whatever else happens is told to nobody
KINDS = {
    "tag.pushed": "TAG_PUSH",
    "tag.pulled": "TAG_PULL",
    "tag.deleted": "TAG_DELETE",
    "manifest.pushed": "MANIFEST_PUSH",
    "manifest.pulled": "MANIFEST_PULL",
    "manifest.deleted": "MANIFEST_DELETE",
    "scan.completed": "SCAN_COMPLETED",
    "scan.failed": "SCAN_FAILED",
    "tag.promoted": "PROMOTION",
    "mirror.pushed": "PUSH_MIRRORING",
    "mirror.polled": "POLL_MIRRORING",
    "repository.created": "REPO_EVENT",
    "repository.updated": "REPO_EVENT",
    "repository.deleted": "REPO_EVENT",
    "scanner.updated": "SCANNER_UPDATE_COMPLETED",
}
_WHEN = {
    **{"TAG_DELETE": "deletedAt", "MANIFEST_DELETE": "deletedAt", "TAG_PULL": "pulledAt", "MANIFEST_PULL": "pulledAt"},
    **{"PROMOTION": "promotedAt", "PUSH_MIRRORING": "mirroredAt", "POLL_MIRRORING": "mirroredAt"},
}
_EXTRA = ("before", "count", "scanSummary", "error", "source", "target", "remote", "policy", "job", "tags", "copied", "deleted")
SAMPLE_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class Notice:
    """`repository` is the full name it is about, "" for none; `subject` a tag, a digest or that name."""

    type: str
    repository: str
    subject: str
    at: datetime
    contents: dict[str, Any]


def notices(event: Event) -> Iterator[Notice]:
    """One for each thing that an event says; a deleted manifest also says that its tags are gone."""
    kind = KINDS.get(event.kind)
    if kind is None:
        return
    name = str(event.data.get("name", ""))
    if kind in ("REPO_EVENT", "SCANNER_UPDATE_COMPLETED"):
        yield Notice(kind, name, name, event.at, _about_repository(event, name))
        return
    yield _about_content(kind, name, event, str(event.data.get("tag", "")))
    if kind == "MANIFEST_DELETE":
        for tag in event.data.get("tags") or ():
            yield _about_content("TAG_DELETE", name, event, str(tag))


def _about_repository(event: Event, name: str) -> dict[str, Any]:
    data = {key: value for key, value in event.data.items() if key != "name"}
    return {**_names(name), "event": f"REPO_{event.kind.partition('.')[2].upper()}", "author": event.actor_name, "data": data}


def _about_content(kind: str, name: str, event: Event, tag: str) -> Notice:
    digest = str(event.data.get("digest", ""))
    system, _, architecture = _platform(name, digest).partition("/")
    contents: dict[str, Any] = _names(name)
    if not kind.startswith("MANIFEST_"):
        contents["tag"] = tag
    contents |= {
        "digest": digest,
        "imageName": image_name(name, "" if kind.startswith("MANIFEST_") else tag, digest),
        "os": system,
        "architecture": architecture.partition("/")[0],
        "author": event.actor_name,
        _WHEN.get(kind, "pushedAt"): stamp(event.at),
        **{key: event.data[key] for key in _EXTRA if key in event.data},
    }
    return Notice(kind, name, tag or digest or name, event.at, contents)


def _names(name: str) -> dict[str, Any]:
    namespace, _, rest = name.partition("/")
    return {"namespace": namespace, "repository": rest or namespace}


def _platform(name: str, digest: str) -> str:
    found = Manifest.objects.filter(repository__full_name=name, digest=digest).values_list("platforms", flat=True).first()
    return str(found[0]) if found else ""


def image_name(name: str, tag: str, digest: str) -> str:
    """As a client would pull it; without a host where the cluster has no name."""
    host = settings.HOSTNAMES[0] if settings.HOSTNAMES else ""
    host = f"{host}:{settings.PORT}" if host and settings.PORT != 443 else host
    return (f"{host}/" if host else "") + (f"{name}:{tag}" if tag else f"{name}@{digest}")


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sample(kind: str, name: str, at: datetime) -> Notice:
    """What a test sends: always the same but for the time."""
    contents = {
        **_names(name or "namespace/repository"),
        "tag": "test",
        "digest": SAMPLE_DIGEST,
        "imageName": image_name(name or "namespace/repository", "test", SAMPLE_DIGEST),
        "os": "linux",
        "architecture": "amd64",
        "author": "test",
        "pushedAt": stamp(at),
        "test": True,
    }
    return Notice(kind, name, "test", at, contents)


def body(hook: Webhook, notice: Notice, number: int) -> str:
    """The bytes that are signed and sent. `number` is the event's, 0 for a test."""
    return json.dumps(_SHAPES[hook.format](notice, number), ensure_ascii=False, separators=(",", ":"))


def _dtr(notice: Notice, number: int) -> dict[str, Any]:
    return {"type": notice.type, "createdAt": stamp(notice.at), "contents": notice.contents}


def _cloudevent(notice: Notice, number: int) -> dict[str, Any]:
    """CloudEvents 1.0: `source` and `id` together name the event, over all redeliveries."""
    return {
        "specversion": "1.0",
        "id": f"{number}-{notice.type}-{notice.subject}" if number else f"test-{stamp(notice.at)}",
        "source": f"/registry/{notice.repository}",
        "type": f"wharfinger.registry.{notice.type.lower().replace('_', '.', 1)}",
        "subject": notice.subject or "registry",
        "time": stamp(notice.at),
        "datacontenttype": "application/json",
        "data": notice.contents,
    }


_SHAPES: dict[str, Callable[[Notice, int], dict[str, Any]]] = {"dtr": _dtr, "cloudevents": _cloudevent}
CONTENT_TYPES = {"dtr": "application/json", "cloudevents": "application/cloudevents+json; charset=utf-8"}
