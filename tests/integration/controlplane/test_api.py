"""How every endpoint behaves: errors, versions, idempotency, pages, bodies, headers."""

from __future__ import annotations

import json
import threading

import pytest
from django.db import connection
from django.test import Client

from controlplane.api import idempotency
from controlplane.api.models import IdempotencyKey
from controlplane.users.models import Organisation
from tests.cast import PASSWORD

pytestmark = pytest.mark.django_db
PROBLEM = "application/problem+json"


def problem(answer, status, code):
    assert (answer.status_code, answer["Content-Type"]) == (status, PROBLEM), answer.content
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    return body


# --- errors ---------------------------------------------------------------------------------------------------------------------


def test_every_status_is_a_problem_document(api, people):
    client = api(people.admin)
    problem(api().get("/api/v1/users"), 401, "unauthenticated")
    problem(client.get("/api/v1/users/nobody"), 404, "not_found")
    problem(client.get("/api/v1/no-such-thing"), 404, "not_found")
    problem(client.get("/api/else"), 404, "not_found")
    problem(client.get("/nothing-here"), 404, "not_found")
    answer = client.put("/api/v1/users", {})
    problem(answer, 405, "method_not_allowed")
    assert set(answer["Allow"].split(", ")) >= {"GET", "POST"}
    problem(client.post("/api/v1/users", "a=1", content_type="application/x-www-form-urlencoded"), 415, "unsupported_media_type")
    problem(client.get("/api/v1/users", headers={"Accept": "image/png"}), 406, "not_acceptable")
    problem(client.delete("/api/v1/users/bob"), 428, "precondition_required")
    body = problem(client.post("/api/v1/users", {"username": "x y", "password": PASSWORD}), 400, "invalid_input")
    assert body["errors"][0]["field"] == "username"


def test_unauthenticated_answers_say_how(api, people):
    assert api().get("/api/v1/users")["WWW-Authenticate"].startswith("Bearer")
    assert problem(api().get("/api/v1/users", headers={"Authorization": "Bearer wharf_x"}), 401, "unauthenticated")


def test_a_bug_is_a_problem_document_without_its_text(api, people, monkeypatch):
    from controlplane.users.api.accounts import Users

    def broken(self):
        raise RuntimeError("secret detail")

    client = api(people.admin, raise_errors=False)
    monkeypatch.setattr(Users, "get_queryset", broken)
    answer = client.get("/api/v1/users")
    problem(answer, 500, "internal")
    assert b"secret detail" not in answer.content


def test_request_ids_are_ours_and_stand_in_header_and_body(api, people):
    answer = api(people.admin).get("/api/v1/users/nobody", headers={"X-Request-ID": "abc-123"})
    assert answer.json()["request_id"] == answer["X-Request-ID"]
    assert answer["X-Request-ID"] not in {"", "abc-123"}  # a stranger must not choose what our log says


# --- bodies ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b'{"name": "a", "name": "b"}', 400),
        (b'{"name": NaN}', 400),
        (b'{"name": "\xff"}', 400),
        (b'{"name": "quay"', 400),
        (b"[]", 400),
        (b'"name"', 400),
        (b"", 400),
        (b'{"name": ' + b"[" * 40 + b"]" * 40 + b"}", 400),
        (b"[" * 100_000, 400),
        (b'{"name": "' + b"x" * (2 << 20) + b'"}', 413),
        (b'{"name": "quay", "everyone": true}', 400),
        (b'{"name": {"deep": 1}}', 400),
        (b'{"name": null}', 400),
    ],
    ids=["duplicate", "nan", "utf8", "cut", "list", "string", "empty", "deep", "bomb", "large", "unknown", "object", "null"],
)
def test_odd_bodies_are_refused_and_nothing_is_made(api, people, raw, status):
    before = Organisation.objects.count()
    answer = api(people.admin).post("/api/v1/organisations", raw, content_type="application/json")
    assert (answer.status_code, answer["Content-Type"]) == (status, PROBLEM)
    assert Organisation.objects.count() == before


def test_unknown_query_parameters_and_filters_on_secrets_are_refused(api, people):
    client = api(people.admin)
    for query in ("password__startswith=argon", "usernam=x", "ordering=password", "user__tokens__secret_hash=1"):
        assert client.get(f"/api/v1/users?{query}").status_code == 400
    assert [row["username"] for row in client.get("/api/v1/users?username=bob").json()] == ["bob"]


# --- versions -------------------------------------------------------------------------------------------------------------------


def test_etag_and_if_match(api, people):
    client = api(people.alice)
    url = "/api/v1/organisations/harbour"
    tag = client.get(url)["ETag"]
    problem(client.patch(url, {"full_name": "one"}), 428, "precondition_required")
    assert client.patch(url, {"full_name": "one"}, headers={"If-Match": tag}).status_code == 200
    problem(client.patch(url, {"full_name": "two"}, headers={"If-Match": tag}), 412, "precondition_failed")
    assert Organisation.objects.get(name="harbour").full_name == "one"
    problem(client.patch(url, {"full_name": "two"}, headers={"If-Match": "v2"}), 400, "invalid_input")
    assert client.patch(url, {"full_name": "three"}, headers={"If-Match": "*"}).status_code == 200
    now = client.get(url)["ETag"]
    assert client.get(url, headers={"If-None-Match": now}).status_code == 304


# --- idempotency ----------------------------------------------------------------------------------------------------------------


def test_the_same_key_and_body_do_the_work_once(api, people):
    client = api(people.admin)
    send = {"path": "/api/v1/organisations", "data": {"name": "quay"}, "headers": {"Idempotency-Key": "k1"}}
    first, second = client.post(**send), client.post(**send)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert (second["Location"], second["ETag"], second["Idempotent-Replay"]) == (first["Location"], first["ETag"], "true")
    assert Organisation.objects.filter(name="quay").count() == 1


def test_another_body_with_the_key_is_refused_and_another_actor_has_keys_of_their_own(api, people):
    client = api(people.admin)
    key = {"Idempotency-Key": "k1"}
    assert client.post("/api/v1/organisations", {"name": "quay"}, headers=key).status_code == 201
    problem(client.post("/api/v1/organisations", {"name": "pier"}, headers=key), 422, "idempotency_mismatch")
    assert api(people.alice).post("/api/v1/organisations", {"name": "pier"}, headers=key).status_code == 403


def test_while_the_first_runs_the_second_is_told_so(api, people):
    client = api(people.admin)
    key = {"Idempotency-Key": "k1"}
    client.post("/api/v1/organisations", {"name": "quay"}, headers=key)
    IdempotencyKey.objects.update(status=None)
    assert problem(client.post("/api/v1/organisations", {"name": "quay"}, headers=key), 409, "in_flight")["retry"] is True


def test_a_failed_request_frees_its_key(api, people):
    client = api(people.admin)
    key = {"Idempotency-Key": "k1"}
    assert client.post("/api/v1/organisations", {"name": "harbour"}, headers=key).status_code == 409
    assert not IdempotencyKey.objects.exists()


def test_a_secret_is_not_kept_for_replays(api, people):
    client = api(people.alice)
    send = {"path": "/api/v1/tokens", "data": {"name": "ci"}, "headers": {"Idempotency-Key": "k1"}}
    text = client.post(**send).json()["token"]
    assert client.post(**send).status_code == 409
    assert text.encode() not in bytes(IdempotencyKey.objects.get().body)


def test_keys_expire(api, people):
    from datetime import timedelta

    from django.utils import timezone

    client = api(people.admin)
    key = {"Idempotency-Key": "k1"}
    client.post("/api/v1/organisations", {"name": "quay"}, headers=key)
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert client.post("/api/v1/organisations", {"name": "pier"}, headers=key).status_code == 201
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert idempotency.expire() == 1


@pytest.mark.django_db(transaction=True)
def test_racing_requests_with_one_key_make_one_row(api, people):
    token_client = api(people.admin)
    credentials = dict(token_client._credentials)
    answers: list[int] = []

    def send() -> None:
        client = Client()
        answer = client.post(
            "/api/v1/organisations",
            json.dumps({"name": "quay"}),
            content_type="application/json",
            headers={"Idempotency-Key": "k1", "Authorization": credentials["HTTP_AUTHORIZATION"]},
        )
        answers.append(answer.status_code)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Organisation.objects.filter(name="quay").count() == 1
    assert answers.count(201) >= 1
    assert set(answers) <= {201, 409}
    assert len(answers) == 4


# --- pages, throttles, headers --------------------------------------------------------------------------------------------------


def test_link_header_leads_through_all_pages_once(api, people):
    client = api(people.admin)
    for n in range(7):
        client.post("/api/v1/organisations", {"name": f"o{n}"})
    url, seen = "/api/v1/organisations?limit=3", []
    while url:
        answer = client.get(url)
        seen += [row["name"] for row in answer.json()]
        links = dict(
            reversed([part.strip("< ") for part in item.split('>; rel="')]) for item in answer.get("Link", "").split(", ") if item
        )
        url = links.get('next"')
    assert sorted(seen) == sorted(Organisation.objects.values_list("name", flat=True))
    assert client.get("/api/v1/organisations?cursor=rubbish").status_code == 404


def test_actors_are_throttled_apart(api, people, monkeypatch):
    from controlplane.api.throttles import ActorThrottle

    monkeypatch.setitem(ActorThrottle.THROTTLE_RATES, "actor", "2/min")
    alice, bob = api(people.alice), api(people.bob)
    assert [alice.get("/api/v1/me").status_code for _ in range(3)] == [200, 200, 429]
    answer = alice.get("/api/v1/me")
    problem(answer, 429, "throttled")
    assert int(answer["Retry-After"]) > 0
    assert bob.get("/api/v1/me").status_code == 200


def test_security_headers(api, people):
    answer = api(people.admin).get("/api/v1/me", secure=True)
    wanted = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    assert {name: answer[name] for name in wanted} == wanted
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_forwarded_addresses_count_from_trusted_proxies_only(settings, rf):
    from controlplane.api.actor import address_of

    request = rf.get("/", headers={"X-Forwarded-For": "203.0.113.5, 198.51.100.1, 10.0.0.2"}, REMOTE_ADDR="10.0.0.1")
    assert address_of(request) == "10.0.0.1"
    settings.TRUSTED_PROXIES = ["10.0.0.0/8"]
    assert address_of(request) == "198.51.100.1"
    settings.TRUSTED_PROXIES = ["192.168.0.0/16"]
    assert address_of(request) == "10.0.0.1"
