"""The tabs Webhooks and Mirrors: what their buttons do, and that strangers get none of it."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from controlplane.api.actor import actor_of_user
from registry.actions import mirrors, webhooks
from registry.actions.repositories import create_repository
from registry.models import Delivery, Mirror, Webhook
from tests.cast import PASSWORD, Cast
from tests.integration.registry.running import run_jobs
from tests.integration.registry.scripted import Says, scripted

pytestmark = pytest.mark.django_db


class Secure(Client):
    """Every request over TLS: without it there is no session."""

    def generic(self, *args: Any, **options: Any) -> Any:
        return super().generic(*args, **{**options, "secure": True})


@pytest.fixture
def browser(people: Cast, settings: Any) -> Any:
    """`browser(person)`: a signed-in client; alice owns harbour/web."""
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    create_repository(actor_of_user(people.alice), "harbour/web", visibility="public")

    def sign_in(user: Any) -> Client:
        client = Secure()
        client.post("/login", {"username": user.username, "password": PASSWORD})
        return client

    return sign_in


def said(client: Client, path: str, act: str, **data: Any) -> str:
    """What the page says after an act."""
    answer = client.post(path, {"act": act, **data}, follow=True)
    return answer.content.decode()


def test_webhooks_by_buttons(browser: Any, people: Cast) -> None:
    client, path = browser(people.alice), "/repositories/harbour/web/-/webhooks"
    with scripted(lambda asked: Says(200)) as endpoint:
        assert "whsec_" in said(client, path, "add", url=endpoint.url, types=["TAG_PUSH", "TAG_DELETE"])
        hook = Webhook.objects.get()
        log = f"{path}/{hook.pk}"
        assert endpoint.url in client.get(path).content.decode()
        assert "on its way" in said(client, log, "test")
        run_jobs()
        assert "delivered" in client.get(log).content.decode()
        assert "sent again" in said(client, log, "redeliver", delivery=Delivery.objects.get().pk)
        run_jobs()
        assert len(endpoint.asked) == 2
    assert client.post(log, {"act": "redeliver", "delivery": "none"}).status_code == 404
    assert "is off" in said(client, log, "switch")
    Webhook.objects.update(disabled_reason="switched off after 10 failed deliveries")
    assert "Mend the endpoint" in client.get(log).content.decode()
    assert "new secret" in said(client, log, "secret")
    assert "removed" in said(client, log, "remove")
    assert not Webhook.objects.exists()
    assert "decimal numbers" in said(client, path, "add", url="http://0x7f.1/", types=["TAG_PUSH"])


def test_mirrors_by_buttons(browser: Any, people: Cast) -> None:
    client, path = browser(people.alice), "/repositories/harbour/web/-/mirrors"
    with scripted(lambda asked: Says(202, {"Location": "/v2/u"}) if asked.method == "POST" else Says(200)) as site:
        place = {"direction": "push", "url": site.url, "remote_name": "a/b", "tags": "v*", "cron": "0 0 * * * *", "speed": "5"}
        assert "The other registry answers" in said(client, path, "add", **place)
        assert "whole number" in said(client, path, "add", **{**place, "speed": "fast"})
        row = Mirror.objects.get()
        assert "not run yet" in client.get(path).content.decode()
        assert (row.rules[0]["values"], row.cron, row.speed) == (["v*"], "0 0 * * * *", 5)
        answer = client.post(path, {"act": "run", "mirror": row.pk})
        assert answer["Location"].startswith("/jobs/")
    Mirror.objects.update(error="site cannot be reached")
    assert "site cannot be reached" in client.get(path).content.decode()
    assert "is off" in said(client, path, "switch", mirror=row.pk)
    assert "stays on both sides" in said(client, path, "remove", mirror=row.pk)
    assert client.post(path, {"act": "remove", "mirror": row.pk}).status_code == 404


def test_strangers(browser: Any, people: Cast) -> None:
    alice, client = actor_of_user(people.alice), browser(people.charlie)
    hook, _ = webhooks.create_webhook(alice, repository="harbour/web", types=["TAG_PUSH"], url="https://93.184.216.34/")
    row = mirrors.create_mirror(alice, repository="harbour/web", direction="push", url="https://93.184.216.34", remote_name="a/b")
    base = "/repositories/harbour/web/-"
    assert "Webhooks" not in client.get("/repositories/harbour/web").content.decode()
    for path in (f"{base}/webhooks", f"{base}/webhooks/{hook.pk}", f"{base}/mirrors"):
        assert client.get(path).status_code == 403
    for path, act in (
        *((f"{base}/webhooks/{hook.pk}", act) for act in ("test", "redeliver", "switch", "secret", "remove")),
        (f"{base}/webhooks", "add"),
        *((f"{base}/mirrors", act) for act in ("run", "switch", "remove")),
    ):
        client.post(path, {"act": act, "mirror": row.pk, "url": "https://93.184.216.34/", "types": ["TAG_PUSH"]})
    assert Webhook.objects.get().version == hook.version
    assert Webhook.objects.get().sealed_secret == hook.sealed_secret
    assert Mirror.objects.get().enabled
    assert not Delivery.objects.exists()
