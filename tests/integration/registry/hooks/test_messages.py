"""Webhooks: what is sent, how it is signed, to whom, and what is not told."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import pytest

from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from registry.actions import deliveries, manifests, pulled, repositories
from registry.models import Delivery, Webhook
from tests.integration.registry.hooks.acts import push, react_and_send, subscribe
from tests.integration.registry.scripted import Scripted
from tests.integration.registry.test_rest import Caller

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_push_is_told_in_docker_s_envelope_and_signed(alice: Caller, web: Any, endpoint: Scripted, settings: Any) -> None:
    settings.HOSTNAMES = ["wharf.example.org"]
    hook, secret = subscribe(alice, f"{endpoint.url}/hook", ["TAG_PUSH"])
    assert secret not in str(Webhook.objects.values())
    digest = push()
    react_and_send()
    (asked,) = endpoint.asked
    body = json.loads(asked.body)
    assert (asked.method, asked.path, body["type"], sorted(body)) == (
        "POST",
        "/hook",
        "TAG_PUSH",
        ["contents", "createdAt", "type"],
    )
    event = Event.objects.get(kind="tag.pushed")
    assert body["contents"] == {
        "namespace": "alice",
        "repository": "web",
        "tag": "v1",
        "digest": digest,
        "imageName": f"wharf.example.org:{settings.PORT}/alice/web:v1",
        "os": "linux",
        "architecture": "arm64",
        "author": "system",
        "pushedAt": event.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "before": "",
    }
    fields = dict(part.split("=") for part in asked.headers["wharf-signature"].split(","))
    signed = hmac.new(secret.encode(), fields["t"].encode() + b"." + asked.body, hashlib.sha256).hexdigest()
    assert fields["v1"] == signed
    assert abs(int(fields["t"]) - time.time()) < 60
    row = Delivery.objects.get()
    assert (asked.headers["wharf-delivery"], asked.headers["wharf-event"]) == (row.pk, "TAG_PUSH")
    assert (row.state, row.attempts, row.status, row.error) == ("delivered", 1, 204, "")
    hook.refresh_from_db()
    assert hook.last_success_at is not None


def test_cloudevents(alice: Caller, web: Any, endpoint: Scripted) -> None:
    subscribe(alice, endpoint.url, ["TAG_PUSH"], format="cloudevents")
    digest = push()
    react_and_send()
    (asked,) = endpoint.asked
    body = json.loads(asked.body)
    assert asked.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    number = Event.objects.get(kind="tag.pushed").id
    assert {key: body[key] for key in ("specversion", "id", "source", "type", "subject", "datacontenttype")} == {
        "specversion": "1.0",
        "id": f"{number}-TAG_PUSH-v1",
        "source": "/registry/alice/web",
        "type": "wharfinger.registry.tag.push",
        "subject": "v1",
        "datacontenttype": "application/json",
    }
    assert body["data"]["digest"] == digest


def test_every_type_and_every_scope(alice: Caller, admin: Caller, web: Any, endpoint: Scripted) -> None:
    every = ["TAG_PUSH", "TAG_DELETE", "MANIFEST_PUSH", "MANIFEST_DELETE"]
    subscribe(alice, f"{endpoint.url}/repository", every)
    subscribe(alice, f"{endpoint.url}/namespace", ["REPO_EVENT", "TAG_DELETE"], repository="", namespace="alice")
    subscribe(admin, f"{endpoint.url}/all", ["REPO_EVENT", "MANIFEST_PUSH"], repository="")
    digest = push()
    push(tag="v2")
    manifests.delete_tag(SYSTEM, "alice/web", "v2")
    manifests.delete_manifest(SYSTEM, "alice/web", digest)
    made = repositories.create_repository(alice.actor, "alice/more")
    push("alice/more")
    repositories.delete_repository(alice.actor, made)
    react_and_send()
    told = sorted((item.path, json.loads(item.body)["type"], item.headers["wharf-event"]) for item in endpoint.asked)
    expected = {
        "/repository": [*("TAG_PUSH",) * 2, "MANIFEST_PUSH", *("TAG_DELETE",) * 2, "MANIFEST_DELETE"],
        "/namespace": ["TAG_DELETE", "TAG_DELETE", "REPO_EVENT", "REPO_EVENT"],
        "/all": ["MANIFEST_PUSH", "MANIFEST_PUSH", "REPO_EVENT", "REPO_EVENT"],
    }
    assert told == sorted((path, kind, kind) for path, kinds in expected.items() for kind in kinds)
    said = [json.loads(item.body)["contents"] for item in endpoint.asked if item.path == "/all"]
    assert [item["event"] for item in said if "event" in item] == ["REPO_CREATED", "REPO_DELETED"]
    assert next(item["imageName"] for item in said if "imageName" in item) == f"alice/web@{digest}"


def test_pulls_are_told_together_and_only_to_subscribers(alice: Caller, web: Any, endpoint: Scripted) -> None:
    digest = push()
    pulled.note("alice/web", "v1", digest)
    assert pulled.flush() == 0
    subscribe(alice, endpoint.url, ["TAG_PULL"])
    for _ in range(3):
        pulled.note("alice/web", "v1", digest)
    pulled.note("alice/web", digest, digest)
    assert pulled.flush() == 1
    react_and_send()
    (asked,) = endpoint.asked
    contents = json.loads(asked.body)["contents"]
    assert (contents["tag"], contents["count"], "pulledAt" in contents) == ("v1", 3, True)


def test_what_happened_before_the_subscription_is_not_told(alice: Caller, web: Any, endpoint: Scripted) -> None:
    push(tag="before")
    subscribe(alice, endpoint.url, ["TAG_PUSH"])
    push(tag="after")
    react_and_send()
    assert [json.loads(item.body)["contents"]["tag"] for item in endpoint.asked] == ["after"]


def test_an_event_that_is_read_twice_is_told_once(alice: Caller, web: Any, endpoint: Scripted) -> None:
    subscribe(alice, endpoint.url, ["TAG_PUSH"])
    push()
    event = Event.objects.get(kind="tag.pushed")
    for _ in range(2):
        deliveries.tell(event)
    react_and_send()
    assert len(endpoint.asked) == 1
