"""Webhooks: who may subscribe, what is sent, how it is signed, tried again, written down and switched off."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import Conflict, Denied, InvalidInput, NotFound
from controlplane.api.actor import SYSTEM, actor_of_user
from controlplane.events.models import Event
from controlplane.jobs.models import Job
from controlplane.users import actions as users
from registry.actions import deliveries, manifests, pulled, reactions, repositories, webhooks
from registry.models import Delivery, Namespace, Webhook
from registry.remote.errors import EgressRefused
from registry.storage import open_store
from tests.integration.controlplane.listening import Authority
from tests.integration.registry import world
from tests.integration.registry.running import database_url, lose_workers, run_jobs
from tests.integration.registry.scripted import Asked, Says, Scripted, scripted
from tests.integration.registry.test_rest import Caller

pytestmark = pytest.mark.django_db(transaction=True)
PASSWORD = "correct-horse-battery"
LAYER = b"layer"


@pytest.fixture(autouse=True)
def _loopback(settings: Any, tmp_path: Path) -> None:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    settings.BLOB_STORE = str(tmp_path / "blobs")


@pytest.fixture
def alice() -> Caller:
    return Caller(users.create_user(SYSTEM, "alice", PASSWORD))


@pytest.fixture
def charlie() -> Caller:
    return Caller(users.create_user(SYSTEM, "charlie", PASSWORD))


@pytest.fixture
def admin() -> Caller:
    return Caller(users.create_user(SYSTEM, "root", PASSWORD, is_admin=True))


@pytest.fixture
def web(alice: Caller) -> Any:
    """alice/web, and reactions that have begun."""
    made = repositories.create_repository(alice.actor, "alice/web")
    reactions.run()
    return made


@pytest.fixture
def endpoint() -> Iterator[Scripted]:
    with scripted(lambda asked: Says(204)) as server:
        yield server


def push(name: str = "alice/web", tag: str = "v1", config: bytes = b'{"os":"linux","architecture":"arm64"}') -> str:
    store = open_store()
    for blob in (config, LAYER):
        world.push_blob(store, name, blob)
    from agent.protocol.oci import parse_manifest
    from registry.details import platforms_of

    document = parse_manifest(world.manifest_of(config, [LAYER]))
    return manifests.put_manifest(SYSTEM, name, document, document.digest(), [tag], platforms_of(document)).digest


def subscribe(who: Caller, url: str, types: list[str], **more: Any) -> tuple[Webhook, str]:
    return webhooks.create_webhook(who.actor, url=url, types=types, **{"repository": "alice/web", **more})


def react_and_send() -> None:
    reactions.run()
    run_jobs()


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


def test_a_failing_endpoint_is_tried_again_with_growing_pauses_and_then_given_up(alice: Caller, web: Any) -> None:
    says = [Says(500, {}, b"overloaded: " + b"x" * 5000)] * deliveries.ATTEMPTS
    with scripted(lambda asked: says.pop(0)) as endpoint:
        hook, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"])
        push()
        reactions.run()
        pauses = []
        for _ in range(deliveries.ATTEMPTS):
            run_jobs(hurry=False)
            job = Job.objects.get(kind="registry.webhook")
            pauses.append(round((job.run_after - job.updated_at).total_seconds()) if job.state == "queued" else 0)
            Job.objects.filter(pk=job.pk).update(run_after="2020-01-01T00:00:00Z")
    row = Delivery.objects.get()
    assert pauses == [10, 20, 40, 80, 160, 0]
    assert (row.state, row.attempts, row.status, row.error) == ("failed", 6, 500, "the endpoint answered 500")
    assert row.excerpt == "overloaded: " + "x" * (deliveries.EXCERPT - 12)
    hook.refresh_from_db()
    assert (hook.failures, hook.active) == (1, True)


def test_several_in_a_row_switch_it_off_and_switching_on_forgets(alice: Caller, web: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(deliveries, "DISABLE_AFTER", 3)
    status = [503]
    with scripted(lambda asked: Says(status[0])) as endpoint:
        hook, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"])
        for number in range(deliveries.DISABLE_AFTER + 2):
            push(tag=f"v{number}")
        react_and_send()
        hook.refresh_from_db()
        assert (hook.active, hook.failures) == (False, deliveries.DISABLE_AFTER)
        assert "the endpoint answered 503" in hook.disabled_reason
        event = Event.objects.get(kind="webhook.disabled")
        assert (event.target, event.data["scope"]) == (f"webhook/{hook.pk}", "alice/web")
        left = Delivery.objects.filter(error="the webhook is switched off")
        assert left.count() == 2
        asked = len(endpoint.asked)
        assert asked == deliveries.DISABLE_AFTER * deliveries.ATTEMPTS
        push(tag="quiet")
        react_and_send()
        assert len(endpoint.asked) == asked
        status[0] = 200
        hook = webhooks.update_webhook(alice.actor, hook, hook.version, active=True)
        assert (hook.failures, hook.disabled_reason) == (0, "")
        push(tag="again")
        react_and_send()
        assert Delivery.objects.filter(subject="again", state="delivered").count() == 1


def test_redelivery_keeps_the_id_and_the_body(alice: Caller, web: Any) -> None:
    status = [400]
    with scripted(lambda asked: Says(status[0])) as endpoint:
        subscribe(alice, endpoint.url, ["TAG_PUSH"])
        push()
        reactions.run()
        row = Delivery.objects.get()
        with pytest.raises(Conflict):
            webhooks.redeliver(alice.actor, row)
        run_jobs()
        status[0] = 200
        row.refresh_from_db()
        again = webhooks.redeliver(alice.actor, row)
        run_jobs()
        once_more = webhooks.redeliver(alice.actor, Delivery.objects.get(pk=again.pk))
        run_jobs()
        assert {item.headers["wharf-delivery"] for item in endpoint.asked} == {row.pk}
        assert len({item.body for item in endpoint.asked}) == 1
        assert Delivery.objects.get(pk=once_more.pk).state == "delivered"


def test_a_test_is_sent_once_even_while_the_webhook_is_off(alice: Caller, web: Any) -> None:
    with scripted(lambda asked: Says(500)) as endpoint:
        hook, _ = subscribe(alice, endpoint.url, ["SCAN_COMPLETED"])
        hook = webhooks.update_webhook(alice.actor, hook, None, active=False)
        row = webhooks.test_webhook(alice.actor, hook)
        run_jobs()
        row.refresh_from_db()
        assert (row.state, len(endpoint.asked)) == ("failed", 1)
        assert json.loads(endpoint.asked[0].body)["contents"]["test"] is True
        hook.refresh_from_db()
        assert hook.failures == 0


def test_tls_by_the_endpoint_s_own_ca(alice: Caller, web: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "hooks")
    with scripted(lambda asked: Says(200), authority) as endpoint:
        plain, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"])
        trusting, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"], tls_ca=authority.pem)
        careless, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"], tls_verify=False)
        for hook in (plain, trusting, careless):
            webhooks.test_webhook(alice.actor, hook)
        run_jobs()
    states = {row.webhook_id: (row.state, row.error) for row in Delivery.objects.all()}
    assert states[trusting.pk] == states[careless.pk] == ("delivered", "")
    assert states[plain.pk][0] == "failed"
    assert "give its CA" in states[plain.pk][1]


def test_an_endpoint_inside_is_refused_when_it_is_named_and_when_it_is_used(
    alice: Caller, web: Any, endpoint: Scripted, settings: Any
) -> None:
    hook, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"])
    settings.REGISTRY_EGRESS_ALLOW = []
    with pytest.raises(EgressRefused):
        subscribe(alice, endpoint.url, ["TAG_PUSH"])
    with pytest.raises(EgressRefused):
        webhooks.update_webhook(alice.actor, hook, None, url="http://169.254.169.254/latest")
    push()
    react_and_send()
    row = Delivery.objects.get()
    assert (row.state, row.attempts, endpoint.asked) == ("failed", 1, [])
    assert "EGRESS_ALLOW" in row.error


def test_redirects_are_not_followed(alice: Caller, web: Any, endpoint: Scripted) -> None:
    with scripted(lambda asked: Says(302, {"Location": endpoint.url})) as site:
        hook, _ = subscribe(alice, site.url, ["TAG_PUSH"])
        webhooks.test_webhook(alice.actor, hook)
        run_jobs()
    assert endpoint.asked == []
    assert "redirects" in Delivery.objects.get().error


def test_the_log_is_bounded(alice: Caller, web: Any, endpoint: Scripted, monkeypatch: Any) -> None:
    monkeypatch.setattr(deliveries, "KEPT", 3)
    hook, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"])
    for _ in range(8):
        webhooks.test_webhook(alice.actor, hook)
        run_jobs()
    assert Delivery.objects.count() == 4  # three that ended, and the newest that was queued when they were counted
    Delivery.objects.update(created_at="2020-01-01T00:00:00Z")
    assert deliveries.expire() == {"removed": 4, "given_up": 0}


_WORKER = """
import django
django.setup()
from tests.integration.registry.running import run_jobs
run_jobs()
"""


def test_a_worker_killed_while_the_endpoint_has_the_message(alice: Caller, web: Any) -> None:
    """The endpoint's answer never reaches the log: the next worker sends again, under the same id."""
    workers: list[subprocess.Popen[bytes]] = []

    def answer(asked: Asked) -> Says:
        if len(endpoint.asked) == 1:
            workers[0].send_signal(signal.SIGKILL)
            workers[0].wait()
        return Says(200)

    with scripted(answer) as endpoint:
        subscribe(alice, endpoint.url, ["TAG_PUSH"])
        push()
        reactions.run()
        environment = {
            **os.environ,
            "WHARF_DATABASE_URL": database_url(),
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "WHARF_REGISTRY_EGRESS_ALLOW": "127.0.0.1",
        }
        workers.append(subprocess.Popen([sys.executable, "-c", _WORKER], env=environment))
        workers[0].wait(60)
        assert workers[0].returncode == -signal.SIGKILL
        assert Delivery.objects.get().state == "queued"
        lose_workers()
        run_jobs()
        assert len(endpoint.asked) == 2
        assert len({item.headers["wharf-delivery"] for item in endpoint.asked}) == 1
        assert Delivery.objects.get().state == "delivered"


# --- who may -------------------------------------------------------------------------------------------------------------------


def test_who_may_subscribe(alice: Caller, charlie: Caller, admin: Caller, web: Any) -> None:
    url = "https://93.184.216.34/hook"
    body = {"repository": "alice/web", "types": ["TAG_PUSH"], "url": url}
    made = alice.call("post", "webhooks", body, expect=201)
    assert made["secret"].startswith("whsec_")
    shown = alice.call("get", f"webhooks/{made['id']}")
    assert "secret" not in shown
    assert shown["repository"] == "alice/web"
    charlie.call("post", "webhooks", body, expect=404)
    charlie.call("post", "webhooks", {**body, "repository": "alice/none"}, expect=404)
    namespace = {"namespace": "alice", "types": ["REPO_EVENT"], "url": url}
    alice.call("post", "webhooks", namespace, expect=201)
    charlie.call("post", "webhooks", namespace, expect=404)
    wide = {"types": ["SCANNER_UPDATE_COMPLETED"], "url": url}
    alice.call("post", "webhooks", wide, expect=403)
    admin.call("post", "webhooks", wide, expect=201)
    assert len(alice.call("get", "webhooks")) == 2
    assert len(admin.call("get", "webhooks")) == 3
    assert charlie.call("get", "webhooks") == []


def test_a_reader_of_the_repository_is_no_admin_of_it(alice: Caller, charlie: Caller, web: Any) -> None:
    repositories.update_repository(alice.actor, web, None, visibility="public")
    charlie.call(
        "post", "webhooks", {"repository": "alice/web", "types": ["TAG_PUSH"], "url": "https://93.184.216.34/"}, expect=403
    )


def test_a_stranger_gets_nothing_of_a_webhook(alice: Caller, charlie: Caller, web: Any, endpoint: Scripted) -> None:
    hook, _ = subscribe(alice, endpoint.url, ["TAG_PUSH"])
    row = webhooks.test_webhook(alice.actor, hook)
    run_jobs()
    path = f"webhooks/{hook.pk}"
    charlie.call("get", path, expect=404)
    charlie.call("patch", path, {"active": False}, expect=404, **{"If-Match": "*"})
    charlie.call("delete", path, expect=404)
    charlie.call("post", f"{path}/secret", expect=404)
    charlie.call("post", f"{path}/test", expect=404)
    charlie.call("get", f"{path}/deliveries", expect=404)
    charlie.call("post", f"{path}/deliveries/{row.pk}/redeliver", expect=404)
    assert Webhook.objects.get().active


def test_the_owner_s_way_through_rest(alice: Caller, web: Any, endpoint: Scripted) -> None:
    body = {"repository": "alice/web", "types": ["TAG_DELETE", "TAG_PUSH"], "url": endpoint.url, "format": "cloudevents"}
    made = alice.call("post", "webhooks", body, expect=201)
    path = f"webhooks/{made['id']}"
    assert alice.headers["Location"] == f"/api/v1/{path}"
    assert made["types"] == ["TAG_PUSH", "TAG_DELETE"]
    alice.call("patch", path, {"types": ["TAG_PULL"]}, expect=428)
    changed = alice.call("patch", path, {"types": ["TAG_PULL"], "tls_verify": False}, **{"If-Match": '"v1"'})
    assert (changed["types"], changed["tls_verify"], changed["version"]) == (["TAG_PULL"], False, 2)
    alice.call("patch", path, {"types": ["TAG_PULL"]}, expect=412, **{"If-Match": '"v1"'})
    sent = alice.call("post", f"{path}/test", expect=202)
    run_jobs()
    (shown,) = alice.call("get", f"{path}/deliveries")
    assert (shown["id"], shown["state"], shown["status"]) == (sent["id"], "delivered", 204)
    again = alice.call("post", f"{path}/deliveries/{sent['id']}/redeliver", expect=202)
    assert again["delivery"] == sent["id"]
    fresh = alice.call("post", f"{path}/secret")["secret"]
    assert fresh != made["secret"]
    alice.call("delete", path, expect=204)
    alice.call("get", path, expect=404)
    kinds = list(Event.objects.filter(kind__startswith="webhook.").values_list("kind", flat=True))
    assert kinds == ["webhook.created", "webhook.updated", "webhook.redelivered", "webhook.secret_renewed", "webhook.deleted"]
    assert made["secret"] not in str(list(Event.objects.values()))


@pytest.mark.parametrize(
    "odd",
    [
        *({"types": []}, {"types": ["TAG_EATEN"]}, {"types": ["REPO_EVENT"]}, {"url": "ftp://x.example/"}, {"url": "nonsense"}),
        *(
            {"url": "http://10.0.0.1/"},
            {"url": "http://0x7f000001/"},
            {"tls_ca": "not PEM"},
            {"format": "xml"},
            {"namespace": "alice"},
        ),
    ],
)
def test_what_cannot_be_subscribed(alice: Caller, web: Any, odd: dict[str, Any]) -> None:
    body = {"repository": "alice/web", "types": ["TAG_PUSH"], "url": "https://93.184.216.34/", **odd}
    alice.call("post", "webhooks", body, expect=400)
    assert not Webhook.objects.exists()


def test_a_token_without_the_scope(alice: Caller, web: Any) -> None:
    from controlplane.users.models import User

    narrow = actor_of_user(User.objects.get(username="alice"), scopes=frozenset({"Repository View"}))
    Namespace.objects.get(name="alice")
    with pytest.raises(Denied):
        webhooks.create_webhook(narrow, types=["TAG_PUSH"], url="https://93.184.216.34/", repository="alice/web")
    with pytest.raises(NotFound):
        webhooks.create_webhook(narrow, types=["TAG_PUSH"], url="https://93.184.216.34/", namespace="alice")
    with pytest.raises(NotFound):
        webhooks.create_webhook(narrow, types=["TAG_PUSH"], url="https://93.184.216.34/", namespace="nobody")
    with pytest.raises(InvalidInput):
        webhooks.create_webhook(narrow, types=["TAG_PUSH"], url="https://x/", namespace="alice", repository="alice/web")
