"""What a browser is shown when something is refused or breaks: a page, never details; and a program a problem document."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from controlplane.api import compression
from controlplane.console.views.overview import Overview
from tests.cast import PASSWORD, Cast

pytestmark = pytest.mark.django_db
HTML = {"Accept": "text/html"}


def browser(name: str = "", **options: Any) -> Client:
    client = Client(**options)
    if name:
        client.post("/login", {"username": name, "password": PASSWORD}, secure=True)
    return client


def test_an_unknown_address_keeps_the_frame_of_who_is_signed_in(people: Cast) -> None:
    answer = browser("alice").get("/no/such/page", secure=True, headers=HTML)
    assert answer.status_code == 404
    text = answer.content.decode()
    assert "Not found" in text
    assert 'id="rail"' in text


def test_and_shows_a_stranger_no_frame(people: Cast) -> None:
    answer = browser().get("/no/such/page", secure=True, headers=HTML)
    assert answer.status_code == 404
    assert b"Not found" in answer.content
    assert b'id="rail"' not in answer.content


def test_a_form_without_its_token_is_refused_on_a_page(people: Cast) -> None:
    refused = Client(enforce_csrf_checks=True).post(
        "/login", {"username": "alice", "password": PASSWORD}, secure=True, headers=HTML
    )
    assert refused.status_code == 403
    assert "reload the page" in refused.content.decode()


def test_a_failure_shows_no_details_and_asks_nobody(people: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(self: Overview) -> dict[str, Any]:
        raise RuntimeError("the secret is plimsoll")

    monkeypatch.setattr(Overview, "context", breaks)
    monkeypatch.setattr("controlplane.console.context.frame", breaks)
    answer = browser("alice", raise_request_exception=False).get("/", secure=True, headers=HTML)
    assert answer.status_code == 500
    text = answer.content.decode()
    assert "Something failed" in text
    assert "plimsoll" not in text
    assert "RuntimeError" not in text


def test_programs_get_a_problem_document(people: Cast) -> None:
    answer = browser("alice").get("/no/such/page", secure=True)
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_program_finds_the_icon_where_it_always_looks() -> None:
    answer = Client().get("/favicon.ico", secure=True)
    assert answer.status_code == 302
    assert answer.headers["Location"].endswith("/console/wharf.svg")
    icon = Client().get(answer.headers["Location"], secure=True)
    icon.close()
    assert icon.status_code == 200


ZIPPED = {"Accept": "text/html", "Accept-Encoding": "gzip"}


def test_a_page_is_compressed_and_its_length_says_nothing(people: Cast) -> None:
    client = browser("alice")
    answers = [client.get(reverse("services"), secure=True, headers=ZIPPED) for _ in range(8)]
    assert all(answer.headers["Content-Encoding"] == "gzip" for answer in answers)
    assert b"<h1>Services</h1>" in gzip.decompress(answers[0].content)
    assert "Accept-Encoding" in answers[0].headers["Vary"]
    assert len({len(answer.content) for answer in answers}) > 1
    plain = client.get(reverse("services"), secure=True)
    assert "Content-Encoding" not in plain.headers


def test_a_bundle_is_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    path = "/static/vendor/tabler.min.css"
    plain = client.get(path, secure=True)
    whole = b"".join(plain.streaming_content)  # type: ignore[attr-defined]  # a file
    plain.close()
    first = client.get(path, secure=True, headers=ZIPPED)
    assert gzip.decompress(first.content) == whole
    assert int(first.headers["Content-Length"]) == len(first.content) < len(whole) / 4
    monkeypatch.delattr(compression, "gzip")
    again = client.get(path, secure=True, headers=ZIPPED)
    assert again.content == first.content
    fresh = client.get(path, secure=True, headers={**ZIPPED, "If-Modified-Since": first.headers["Last-Modified"]})
    assert fresh.status_code == 304


def test_answers_to_programs_are_left_alone(people: Cast) -> None:
    answer = browser("alice").get("/api/v1/services", secure=True, headers={"Accept-Encoding": "gzip"})
    assert answer.status_code == 200
    assert "Content-Encoding" not in answer.headers
