"""Webhooks: tried again, written down, redelivered, switched off; over kills; only where it may go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import Conflict
from controlplane.events.models import Event
from controlplane.jobs.models import Job
from registry.actions import deliveries, reactions, webhooks
from registry.models import Delivery
from registry.remote.errors import EgressRefused
from tests.integration.controlplane.listening import Authority
from tests.integration.registry.hooks.acts import push, react_and_send, subscribe
from tests.integration.registry.running import database_url, lose_workers, run_jobs
from tests.integration.registry.scripted import Asked, Says, Scripted, scripted
from tests.integration.registry.test_rest import Caller

pytestmark = pytest.mark.django_db(transaction=True)


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
