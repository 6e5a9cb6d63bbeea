"""Answers from memory are as fresh as the database: every delete, move and withdrawal is seen by the very next request, on the
very connection and in every process that had the answer in its memory.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from registry.queries import freshness
from registry.token import Claims
from registry.v2 import again
from registry.v2.again import Answer, Reader
from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry, digest_of
from tests.conformance.distribution.content import image
from tests.integration.registry.server import RegistryServer, registry_server
from tests.integration.registry.test_tokens import basic, bearer, get_token, python_settings

Seen = tuple[int, str, bytes]  # status, digest, body
PROCESSES = 2


class Line:
    """One connection that asks one thing, always with the same bytes."""

    def __init__(self, server: RegistryServer, method: str, path: str, headers: dict[str, str]) -> None:
        self._link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._request = (method, path, None, headers)

    def ask(self) -> Seen:
        self._link.request(*self._request)
        answer = self._link.getresponse()
        return answer.status, answer.headers.get("docker-content-digest", ""), answer.read()

    def close(self) -> None:
        self._link.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with registry_server(tmp_path_factory.mktemp("again"), workers=PROCESSES) as running:
        yield running
        assert "defect" not in running.log(), running.log()


@pytest.fixture
def owner(pair: RegistryServer) -> Registry:
    return Registry(pair.url, "alice", pair.password, prefix="alice")


@contextmanager
def lines(pair: RegistryServer, path: str, headers: dict[str, str], method: str = "GET") -> Iterator[list[Line]]:
    """Connections enough that every process has some, each asked until it answers from memory."""
    with ExitStack() as stack:
        made = [Line(pair, method, path, headers) for _ in range(8)]
        for line in made:
            stack.callback(line.close)
            assert [line.ask()[0] for _ in range(3)] == [200] * 3
        yield made


def token(pair: RegistryServer, name: str, user: str = "alice") -> dict[str, str]:
    return bearer(get_token(pair, [("scope", f"repository:{name}:pull,push")], basic(user, pair.password)))


def test_a_moved_and_a_deleted_tag(pair: RegistryServer, owner: Registry) -> None:
    name, one, two = owner.repository(), image(), image()
    push(owner, name, one, "v1")
    push(owner, name, two)
    for method in ("GET", "HEAD"):
        owner.push_manifest(name, "v1", one.raw, one.media_type)
        with lines(pair, f"/v2/{name}/manifests/v1", token(pair, name), method) as connections:
            for document in (two, one, two):
                owner.push_manifest(name, "v1", document.raw, document.media_type)
                body = document.raw if method == "GET" else b""
                assert {line.ask() for line in connections} == {(200, document.digest, body)}
            owner.call("DELETE", f"/v2/{name}/manifests/v1", expect=202)
            assert {line.ask()[0] for line in connections} == {404}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_deleted_blob(pair: RegistryServer, owner: Registry, method: str) -> None:
    name = owner.repository()
    digest = owner.push_blob(name, b"soon gone " * 50)
    with lines(pair, f"/v2/{name}/blobs/{digest}", token(pair, name), method) as connections:
        owner.call("DELETE", f"/v2/{name}/blobs/{digest}", expect=202)
        assert {line.ask()[0] for line in connections} == {404}
        assert owner.push_blob(name, b"soon gone " * 50) == digest
        assert {line.ask()[0] for line in connections} == {200}


def test_a_blob_that_the_collector_claims(pair: RegistryServer, owner: Registry) -> None:
    name = owner.repository()
    digest = owner.push_blob(name, b"claimed")
    with lines(pair, f"/v2/{name}/blobs/{digest}", token(pair, name)) as connections:
        change = "Blob.objects.filter(digest={!r}).update(state=Blob.State.{})\n"
        python_settings(pair, change.format(digest, "DELETING"))
        assert {line.ask()[0] for line in connections} == {404}
        python_settings(pair, change.format(digest, "LIVE"))
        assert {line.ask()[0] for line in connections} == {200}


def test_a_withdrawn_grant(pair: RegistryServer, owner: Registry) -> None:
    name, document = owner.repository(), image()
    push(owner, name, document, "v1")
    given = (
        f"repository = Repository.objects.get(full_name={name!r})\n"
        "from controlplane.rbac import actions\n"
        "bob = User.objects.get(username='bob').pk\n"
    )
    role = "Role.objects.get(name='Registry Read')"
    python_settings(pair, given + f"actions.create_grant(SYSTEM, 'user', bob, {role}, repository.collection)\n")
    headers = bearer(get_token(pair, [("scope", f"repository:{name}:pull")], basic("bob", pair.password)))
    with lines(pair, f"/v2/{name}/manifests/v1", headers) as connections:
        python_settings(
            pair, given + "actions.delete_grant(SYSTEM, Grant.objects.get(subject_id=bob, collection=repository.collection))\n"
        )
        assert {line.ask()[0] for line in connections} == {401}


def test_what_another_token_may_is_not_what_this_one_may(pair: RegistryServer, owner: Registry) -> None:
    name, document = owner.repository(), image()
    push(owner, name, document, "v1")
    with lines(pair, f"/v2/{name}/manifests/v1", token(pair, name)):
        stranger = Line(pair, "GET", f"/v2/{name}/manifests/v1", token(pair, name, "charlie"))
        assert [stranger.ask()[0] for _ in range(3)] == [401] * 3
        stranger.close()


def test_pulls_from_memory_are_counted(pair: RegistryServer, owner: Registry) -> None:
    name, document = owner.repository(), image()
    push(owner, name, document, "v1")
    deadline = time.monotonic() + 30
    with lines(pair, f"/v2/{name}/manifests/v1", token(pair, name)) as connections:
        asked = 24  # by `lines`
        while (found := int(python_settings(pair, f"print(Repository.objects.get(full_name={name!r}).pulls)"))) < 24:
            assert time.monotonic() < deadline, found
            for line in connections:
                assert line.ask()[0] == 200
                asked += 1
        assert found <= asked


NAME = "alice/x"
LINE = b"GET /v2/alice/x/manifests/v1 HTTP/1.1"


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> tuple[Reader, Callable[..., None]]:
    """A reader that may pull and push, and a way to put an answer for LINE in its memory."""
    monkeypatch.setattr(freshness, "version", lambda: (1, 7))
    monkeypatch.setattr(again, "answers", again._Answers())
    claims = Claims("id", "user/1", "alice", {}, False, -1, time.time() + 60)

    def put(**changes: Any) -> None:
        again.answers.put(LINE, replace(Answer((1, 7), NAME, None, float("inf"), (b"head", b"body")), **changes))

    return Reader(claims, (1, 7), {NAME: True}), put


def test_a_reader_answers_while_all_is_as_it_was(remembered: tuple[Reader, Callable[..., None]]) -> None:
    reader, put = remembered
    assert reader(LINE) is None
    put()
    assert reader(LINE) == (b"head", b"body")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda reader, put: put(version=(1, 6)), "found under an older version"),
        (lambda reader, put: put(name="alice/other"), "a repository this token was not judged for"),
        (lambda reader, put: put(pusher_until=time.time() - 1), "a pusher has to touch the blob"),
        (lambda reader, put: setattr(reader, "claims", replace(reader.claims, expires_at=time.time() - 60)), "expired"),
        (lambda reader, put: setattr(freshness, "version", lambda: (1, 8)), "somebody committed"),
        (lambda reader, put: setattr(freshness, "version", lambda: None), "nothing is known"),
    ],
)
def test_a_reader_keeps_silent(remembered: tuple[Reader, Callable[..., None]], change: Callable[..., None], why: str) -> None:
    reader, put = remembered
    put()
    change(reader, put)
    assert reader(LINE) is None, why


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "MAX_BYTES", 1000)
    monkeypatch.setattr(again, "MAX_ANSWERS", 5)
    answers = again._Answers()
    for size in (10, 400, 400, 400, 1, 2, 3, 4, 5, 6):
        answers.put(b"%d" % size, Answer((1, 1), NAME, None, 0.0, (bytes(size),)))
    assert [answers.get(b"%d" % size) is not None for size in (10, 400, 1, 2, 6)] == [False, False, False, True, True]


def test_a_digest_is_that_of_the_bytes(pair: RegistryServer, owner: Registry) -> None:
    """A blob of exactly the largest size that is answered in one piece, and one byte more."""
    name = owner.repository()
    for size in (64 << 10, (64 << 10) + 1):
        digest = owner.push_blob(name, bytes(size))
        with lines(pair, f"/v2/{name}/blobs/{digest}", token(pair, name)) as connections:
            assert {digest_of(line.ask()[2]) for line in connections} == {digest}
