"""Generic questions to every REST route there is, guests' included: nobody gets in without an account, odd ids break nothing."""

from __future__ import annotations

import re

import pytest
from django.urls import get_resolver

from controlplane.api.access import AUTHENTICATED, PUBLIC
from controlplane.api.routes import operations_of, walk

pytestmark = pytest.mark.django_db
METHODS = ("get", "post", "put", "patch", "delete")


def _url(route: str, value: str) -> str:
    text = re.sub(r"\(\?P<\w+>(?:\[[^\]]*\]|[^()])*\)", value, route)
    text = re.sub(r"<[^>]+>", value, text)
    return "/" + text.replace("^", "").replace("\\Z", "").replace("$", "").replace("\\", "")


def routes() -> list[tuple[str, str, str, bool]]:
    """(route, method, operation, lets anonymous callers ask) of every REST route."""
    found = []
    for route, callback in walk(get_resolver().url_patterns):
        cls = getattr(callback, "cls", None)
        if not route.startswith("api/v1/") or cls is None:
            continue
        named = operations_of(callback)
        actions = getattr(callback, "actions", None) or {m: m for m in METHODS if hasattr(cls, m)}
        for method, action in actions.items():
            if method in METHODS and (named.get(action) or "") != PUBLIC:
                found.append((route, method, str(named.get(action)), bool(getattr(cls, "allow_anonymous", False))))
    return sorted(set(found))


def _ask(client, method: str, url: str):
    body = {} if method in {"post", "put", "patch"} else None
    return getattr(client, method)(url, *([body] if body is not None else []), headers={"If-Match": "*"})


def test_there_are_routes_of_the_guests_too():
    heads = {route.split("/")[2].strip("^$").removesuffix("\\Z") for route, *_ in routes()}
    assert {"users", "events", "jobs", "nodes", "services"} <= heads


def test_without_an_account_nothing_answers(api, people):
    leaks = []
    for route, method, operation, anonymous in routes():
        status = _ask(api(raise_errors=False), method, _url(route, "zzz")).status_code
        if not (status == 401 or (anonymous and status in {200, 400, 403, 404})):
            leaks.append(f"{method} {route} ({operation}): {status}")
    assert leaks == []


def test_a_stranger_gets_nothing_from_ids_that_do_not_exist(api, people):
    client = api(people.charlie, raise_errors=False)
    odd = []
    for route, method, operation, _ in routes():
        url = _url(route, "zzz")
        status = _ask(client, method, url).status_code
        wanted = {400, 403, 404, 405} | ({200} if "zzz" not in url and method == "get" else set())
        wanted |= {200} if operation == AUTHENTICATED else set()
        if status not in wanted:
            odd.append(f"{method} {url} ({operation}): {status}")
    assert odd == []


def test_lists_answer_the_administrator(api, people):
    client = api(people.admin, raise_errors=False)
    broken = []
    for route, method, operation, _ in routes():
        url = _url(route, "zzz")
        if method == "get" and "zzz" not in url:
            answer = client.get(url)
            if answer.status_code not in {200, 400}:
                broken.append(f"{url} ({operation}): {answer.status_code} {answer.content[:200]!r}")
    assert broken == []


@pytest.mark.parametrize(
    "value", ["%00", "..%2f..", "%27%3B--", "a" * 300, "%F0%9F%9A%A2"], ids=["nul", "dots", "quote", "long", "emoji"]
)
def test_odd_ids_break_nothing(api, people, value):
    client = api(people.admin, raise_errors=False)
    broken = []
    for route, method, operation, _ in routes():
        url = _url(route, value)
        if value in url and method != "get":
            continue
        if value in url:
            answer = client.get(url)
            if answer.status_code not in {400, 404}:
                broken.append(f"{url} ({operation}): {answer.status_code}")
    assert broken == []
