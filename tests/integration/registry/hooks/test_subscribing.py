"""Webhooks: who may subscribe, and to what."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol.errors import Denied, InvalidInput, NotFound
from controlplane.api.actor import actor_of_user
from controlplane.events.models import Event
from registry.actions import repositories, webhooks
from registry.models import Namespace, Webhook
from tests.integration.registry.hooks.acts import subscribe
from tests.integration.registry.running import run_jobs
from tests.integration.registry.scripted import Scripted
from tests.integration.registry.test_rest import Caller

pytestmark = pytest.mark.django_db(transaction=True)


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
