"""Passwords, tokens, lockout, sessions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.test import override_settings
from django.utils import timezone

from agent.protocol.errors import Denied, InvalidInput, Throttled, Unauthenticated
from controlplane.api.actor import SYSTEM, actor_of_user
from controlplane.events.models import Event
from controlplane.users import actions, credentials
from controlplane.users.models import Token, UserSession
from tests.cast import PASSWORD

pytestmark = pytest.mark.django_db


def browser(address: str = "192.0.2.1") -> HttpRequest:
    request = HttpRequest()
    request.META = {"REMOTE_ADDR": address, "HTTP_USER_AGENT": "test"}
    request.method, request.path = "POST", "/login"
    request.session = SessionStore()
    return request


def test_basic_takes_a_password_or_the_own_token(people, token_of):
    token = token_of(people.alice)
    assert actions.authenticate_basic("alice", PASSWORD).id == people.alice.pk
    assert actions.authenticate_basic("ALICE", PASSWORD).id == people.alice.pk
    assert actions.authenticate_basic("alice", token).token_id != ""
    assert actions.authenticate_basic("bob", token) is None
    assert actions.authenticate_basic("alice", "wrong") is None
    assert actions.authenticate_basic("nobody", PASSWORD) is None


@pytest.mark.parametrize("change", [{"expires_at": timezone.now() - timedelta(seconds=1)}, {"revoked_at": timezone.now()}])
def test_expired_and_revoked_tokens_are_refused(people, token_of, change):
    text = token_of(people.alice)
    assert actions.authenticate_bearer(text) is not None
    Token.objects.update(**change)
    assert actions.authenticate_bearer(text) is None


def test_a_changed_secret_or_id_is_refused(people, token_of):
    one, two = token_of(people.alice), token_of(people.bob)
    head, secret = one[:32], two[32:]
    for text in (head + secret, one[:-1] + ("A" if one[-1] != "A" else "B"), one + "x", one[:-1], "", "wharf__"):
        assert actions.authenticate_bearer(text) is None


def test_source_networks_bind(people, token_of):
    text = token_of(people.alice, cidrs=["10.1.0.0/16", "2001:db8::/32"])
    assert actions.authenticate_bearer(text, address="10.1.2.3") is not None
    assert actions.authenticate_bearer(text, address="::ffff:10.1.2.3") is not None
    assert actions.authenticate_bearer(text, address="2001:db8::5") is not None
    assert actions.authenticate_bearer(text, address="10.2.0.1") is None
    assert actions.authenticate_bearer(text, address="") is None


def test_last_use_is_noted_once_a_minute(people, token_of, django_assert_num_queries):
    text = token_of(people.alice)
    actions.authenticate_bearer(text, address="10.0.0.1")
    row = Token.objects.get()
    assert (row.last_used_address, row.last_used_at is not None) == ("10.0.0.1", True)
    with django_assert_num_queries(1):
        actions.authenticate_bearer(text, address="10.0.0.2")


def test_secret_is_not_stored(people, token_of):
    text = token_of(people.alice)
    row = Token.objects.values().get()
    assert text[32:] not in str(row)
    assert all(text[32:] not in str(event.data) for event in Event.objects.all())


def test_scopes_narrow_even_an_administrator(api, people):
    narrow = api(people.admin, scopes=["User View"])
    assert narrow.get("/api/v1/users").status_code == 200
    assert narrow.get("/api/v1/organisations").json() == []
    refused = narrow.post("/api/v1/users", {"username": "eve", "password": PASSWORD})
    assert (refused.status_code, refused.json()["operation"]) == (403, "User Create")
    globbed = api(people.admin, scopes=["User *"])
    assert globbed.post("/api/v1/users", {"username": "eve", "password": PASSWORD}).status_code == 201


def test_scopes_never_widen(api, people):
    assert (
        api(people.charlie, scopes=["User *"]).post("/api/v1/users", {"username": "eve", "password": PASSWORD}).status_code == 403
    )


def test_a_scoped_token_cannot_make_a_wider_one(people):
    scoped = actor_of_user(people.alice, scopes=frozenset({"Token *"}))
    for scopes in (None, ["User View"], ["*"]):
        with pytest.raises(Denied):
            actions.create_token(scoped, people.alice, "wide", scopes)
    assert actions.create_token(scoped, people.alice, "same", ["Token View"])


def test_unknown_scopes_and_networks_are_named(people):
    with pytest.raises(InvalidInput, match="Servce"):
        actions.create_token(SYSTEM, people.alice, "x", ["Servce View"])
    with pytest.raises(InvalidInput, match="network"):
        actions.create_token(SYSTEM, people.alice, "x", None, None, cidrs=["10.0.0.0/99"])


def test_rest_login_gives_a_token_and_never_keeps_it(api, people):
    answer = api().post("/api/v1/login", {"username": "alice", "password": PASSWORD})
    assert answer.status_code == 201
    text = answer.json()["token"]
    assert api().get("/api/v1/me", headers={"Authorization": f"Bearer {text}"}).json()["username"] == "alice"
    assert api().post("/api/v1/login", {"username": "alice", "password": "x"}).status_code == 401


def test_tokens_are_seen_and_revoked_by_their_owner_and_the_administrator_only(api, people, token_of):
    text = token_of(people.bob)
    row = Token.objects.get(user=people.bob)
    stranger = api(people.charlie)
    assert stranger.get(f"/api/v1/tokens/{row.pk}").status_code == 404
    assert stranger.delete(f"/api/v1/tokens/{row.pk}").status_code == 404
    assert stranger.post("/api/v1/tokens", {"name": "x", "user": "bob"}).status_code == 404
    assert actions.authenticate_bearer(text) is not None
    assert api(people.admin).delete(f"/api/v1/tokens/{row.pk}").status_code == 204
    assert actions.authenticate_bearer(text) is None


def test_failures_lock_the_account_for_that_address_only(people, settings):
    settings.AXES_FAILURE_LIMIT = 3
    for _ in range(3):
        try:
            assert credentials.check_password("alice", "wrong", address="192.0.2.9") is None
        except Throttled:
            break
    with pytest.raises(Throttled) as caught:
        credentials.check_password("alice", PASSWORD, address="192.0.2.9")
    assert caught.value.retry_after > 0
    assert credentials.check_password("alice", PASSWORD, address="192.0.2.10") == people.alice
    assert credentials.check_password("bob", PASSWORD, address="192.0.2.9") == people.bob


def test_one_address_cannot_try_every_name(people, settings):
    settings.LOGIN_FAILURES_PER_ADDRESS = 4
    for number in range(4):
        assert credentials.check_password(f"name{number}", "wrong", address="192.0.2.30") is None
    with pytest.raises(Throttled):
        credentials.check_password("alice", PASSWORD, address="192.0.2.30")
    with pytest.raises(Throttled):
        actions.authenticate_basic("alice", PASSWORD, address="192.0.2.30")
    assert credentials.check_password("alice", PASSWORD, address="192.0.2.31") == people.alice


def test_unknown_name_costs_one_hash_like_a_known_one(people, monkeypatch):
    from django.contrib.auth.hashers import get_hasher

    hasher = type(get_hasher())
    seen: list[str] = []
    real_encode, real_verify = hasher.encode, hasher.verify
    monkeypatch.setattr(hasher, "encode", lambda self, *args: (seen.append("encode"), real_encode(self, *args))[1])
    monkeypatch.setattr(hasher, "verify", lambda self, *args: (seen.append("verify"), real_verify(self, *args))[1])
    counts = {}
    for name in ("alice", "nobody"):
        seen.clear()
        credentials.check_password(name, "wrong", address="192.0.2.20")
        counts[name] = len(seen)
    assert counts == {"alice": 1, "nobody": 1}


def test_login_rate_is_limited_by_address(api, people, monkeypatch):
    from controlplane.api.throttles import LoginThrottle

    monkeypatch.setitem(LoginThrottle.THROTTLE_RATES, "login", "2/min")
    client = api()
    codes = [client.post("/api/v1/login", {"username": f"u{n}", "password": "x"}).status_code for n in range(3)]
    assert codes == [401, 401, 429]
    answer = client.post("/api/v1/login", {"username": "u", "password": "x"})
    assert int(answer["Retry-After"]) >= 1
    assert answer.json()["retry"] is True


def test_login_changes_the_session_id_and_leaves_events(people):
    request = browser()
    request.session.save()
    before = request.session.session_key
    with pytest.raises(Unauthenticated):
        actions.login(request, "alice", "wrong")
    actor = actions.login(request, "Alice", PASSWORD)
    assert (actor.name, request.session.session_key != before) == ("alice", True)
    kinds = list(Event.objects.order_by("-id").values_list("kind", flat=True)[:2])
    assert kinds == ["session.started", "login.failed"]
    actions.logout(request)
    assert not UserSession.objects.exists()


@override_settings(SESSION_LIMIT=2)
def test_one_session_over_the_limit_ends_the_least_recently_used(people):
    requests = [browser() for _ in range(3)]
    for number, request in enumerate(requests):
        actions.login(request, "alice", PASSWORD)
        row = UserSession.objects.get(session_key=request.session.session_key)
        UserSession.objects.filter(pk=row.pk).update(last_used_at=timezone.now() - timedelta(minutes=10 - number))
    keys = set(UserSession.objects.values_list("session_key", flat=True))
    assert keys == {requests[1].session.session_key, requests[2].session.session_key}
    assert not SessionStore().exists(requests[0].session.session_key)


def sign_in(client, name):
    from django.conf import settings

    request = browser()
    actions.login(request, name, PASSWORD)
    request.session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = request.session.session_key
    return request.session.session_key


def test_session_cookie_works_and_ends_with_its_row(client, people):
    sign_in(client, "alice")
    assert client.get("/api/v1/me", secure=True).json()["username"] == "alice"
    UserSession.objects.all().delete()
    assert client.get("/api/v1/me", secure=True).status_code == 401


def test_cookie_writes_need_the_csrf_token_and_bearer_writes_do_not(people):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    sign_in(client, "admin")
    body = {"name": "quay"}
    assert client.post("/api/v1/organisations", body, content_type="application/json", secure=True).status_code == 403


def test_session_is_extended_near_its_end_and_not_before(client, people):
    sign_in(client, "alice")
    row = UserSession.objects.get()
    client.get("/api/v1/me", secure=True)
    assert UserSession.objects.get().expires_at == row.expires_at
    soon = timezone.now() + timedelta(minutes=5)
    UserSession.objects.update(expires_at=soon)
    client.get("/api/v1/me", secure=True)
    assert UserSession.objects.get().expires_at > soon
    UserSession.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert client.get("/api/v1/me", secure=True).status_code == 401


def test_password_change_ends_the_other_sessions(client, people):
    sign_in(client, "alice")
    actions.set_password(SYSTEM, people.alice, "an entirely new sentence")
    assert client.get("/api/v1/me", secure=True).status_code == 401
