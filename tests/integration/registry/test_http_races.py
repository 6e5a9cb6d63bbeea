"""Races of clients over HTTP: two processes, PostgreSQL in READ COMMITTED. (Collector against pushers: test_races.py.)"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from tests.conformance.distribution.client import Answer, Registry, digest_of, with_digest
from tests.integration.registry.server import RegistryServer, registry_server
from tests.servers import postgresql

T = TypeVar("T")
ROUNDS = 5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with postgresql() as url, registry_server(tmp_path_factory.mktemp("races"), database_url=url, workers=2) as running:
        yield running
        assert "defect" not in running.log(), running.log()


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """All calls at the same moment, each in its own thread; their results in order."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_the_same_blob_pushed_many_times_at_once(server: RegistryServer, alice: Registry) -> None:
    names = [alice.repository() for _ in range(4)]
    for name in names:
        alice.push_blob(name, b"so that the repository is there")
    for number in range(ROUNDS):
        data = os.urandom(20_000 if number % 2 else 2 << 20)
        digest = digest_of(data)

        def push(name: str, whole: bool, data: bytes = data, digest: str = digest) -> int:
            client = Registry(server.url, "alice", server.password, prefix="alice", tokens=dict(alice.tokens))
            if whole:
                return client.call("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data).status
            location = client.start(name)
            client.call("PATCH", location, data, expect=202)
            return client.call("PUT", with_digest(location, digest), b"").status

        found = at_once([lambda name=name, whole=whole: push(name, whole) for name in names for whole in (True, False)])
        assert Counter(found) == {201: 8}
        for name in names:
            assert alice.call("GET", f"/v2/{name}/blobs/{digest}", expect=200).body == data


def test_one_of_many_chunks_for_the_same_place_wins(server: RegistryServer, alice: Registry) -> None:
    name = alice.repository()
    for _ in range(ROUNDS):
        location, written = alice.start(name), b""
        for size in (1000, 200_000):
            chunks = [os.urandom(size) for _ in range(6)]
            where = {"Content-Range": f"{len(written)}-{len(written) + size - 1}"}

            def patch(chunk: bytes, location: str = location, where: dict[str, str] = where) -> Answer:
                client = Registry(server.url, "alice", server.password, prefix="alice", tokens=dict(alice.tokens))
                return client.call("PATCH", location, chunk, where)

            answers = at_once([lambda chunk=chunk: patch(chunk) for chunk in chunks])
            assert Counter(answer.status for answer in answers) == {202: 1, 416: 5}
            written += next(chunk for chunk, answer in zip(chunks, answers, strict=True) if answer.status == 202)
        assert alice.call("GET", location, expect=204).headers["range"] == f"0-{len(written) - 1}"
        alice.call("PUT", with_digest(location, digest_of(written)), b"", expect=201)
        assert alice.call("GET", f"/v2/{name}/blobs/{digest_of(written)}", expect=200).body == written


def test_a_mount_against_a_delete_of_its_source(server: RegistryServer, alice: Registry) -> None:
    """Whoever is told 201 has the blob; whoever is not can upload it."""
    source, target = alice.repository(), alice.repository()
    alice.push_blob(target, b"so that the repository is there")
    outcomes: Counter[tuple[int, int]] = Counter()
    for _ in range(4 * ROUNDS):
        data = os.urandom(3000)
        digest = alice.push_blob(source, data)

        def mount(digest: str = digest) -> Answer:
            return alice.call("POST", f"/v2/{target}/blobs/uploads/?mount={digest}&from={source}")

        def delete(digest: str = digest) -> Answer:
            return alice.call("DELETE", f"/v2/{source}/blobs/{digest}")

        mounted, deleted = at_once([mount, delete])
        outcomes[mounted.status, deleted.status] += 1
        assert deleted.status == 202
        if mounted.status == 202:
            alice.call("PUT", with_digest(mounted.headers["location"], digest), data, expect=201)
        else:
            assert mounted.status == 201
        assert alice.call("GET", f"/v2/{target}/blobs/{digest}", expect=200).body == data
    print(outcomes)
