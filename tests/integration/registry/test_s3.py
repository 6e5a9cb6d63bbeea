"""The real server on PostgreSQL and S3, two processes on the same sockets."""

from __future__ import annotations

import os
import random
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry, digest_of, with_digest
from tests.conformance.distribution.content import image
from tests.integration.registry.pushers import Pushers
from tests.integration.registry.server import RegistryServer, registry_server
from tests.s3 import CREDENTIALS, S3Server, s3_server
from tests.servers import postgresql

KILLS = int(os.environ.get("WHARF_KILLS", "1"))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def server(s3: S3Server, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    store = {"WHARF_BLOB_STORE": s3.location(s3.bucket(), part=5), **CREDENTIALS}
    with registry_server(tmp_path_factory.mktemp("s3"), database_url=database, workers=2, settings=store) as running:
        yield running
        assert "defect" not in running.log(), running.log()


def test_an_image_goes_in_and_comes_out(alice: Registry) -> None:
    name, document = alice.repository(), image()
    push(alice, name, document, "v1")
    assert alice.call("GET", f"/v2/{name}/manifests/v1", expect=200).body == document.raw
    data = os.urandom(3 << 20)
    digest = alice.push_blob(name, data)
    assert alice.call("GET", f"/v2/{name}/blobs/{digest}", expect=200).body == data
    part = alice.call("GET", f"/v2/{name}/blobs/{digest}", headers={"Range": f"bytes=500-{2 << 20}"}, expect=206)
    assert part.body == data[500 : (2 << 20) + 1]
    assert alice.call("GET", f"/v2/{name}/blobs/{digest}", headers={"Range": "bytes=-5"}, expect=206).body == data[-5:]
    assert alice.call("HEAD", f"/v2/{name}/blobs/{digest}", expect=200).headers["content-length"] == str(len(data))
    assert alice.call("PUT", with_digest(alice.start(name), digest), b"other bytes", expect=400).error_codes() == [
        "DIGEST_INVALID"
    ]


def test_an_upload_in_chunks_by_whichever_process_answers(server: RegistryServer, alice: Registry) -> None:
    """Small chunks and large ones, the processes replaced between them: nothing of an upload is on a host."""
    data, rand = os.urandom(17 << 20), random.Random(5)
    name = alice.repository()
    location, offset = alice.start(name), 0
    while offset < len(data):
        step = rand.choice([10, 50_000, 2 << 20, 6 << 20])
        chunk = data[offset : offset + step]
        answer = alice.call("PATCH", location, chunk, {"Content-Range": f"{offset}-{offset + len(chunk) - 1}"}, expect=202)
        offset += len(chunk)
        assert answer.headers["range"] == f"0-{offset - 1}"
        if rand.random() < 0.15:
            server.kill_one(0)
            server.start_one()
    alice.call("PUT", with_digest(location, digest_of(data)), b"", expect=201)
    assert alice.call("GET", f"/v2/{name}/blobs/{digest_of(data)}", expect=200).body == data


def test_clients_are_sent_to_s3_when_asked_for(s3: S3Server, database: str, server: RegistryServer, tmp_path: Path) -> None:
    settings = {**server.settings, "WHARF_BLOB_STORE": f"{server.settings['WHARF_BLOB_STORE']}&redirect=1"}
    settings |= {"WHARF_KEK_FILE": str(server.home / "kek"), "WHARF_SECRET_KEY_FILE": str(server.home / "secret-key")}
    with registry_server(tmp_path, database_url=database, settings=settings) as redirecting:
        alice = Registry(redirecting.url, "alice", redirecting.password, prefix="alice")
        name, data = alice.repository(), os.urandom(100_000)
        digest = alice.push_blob(name, data)
        assert alice.call("HEAD", f"/v2/{name}/blobs/{digest}", expect=200).headers["content-length"] == "100000"
        answer = alice.call("GET", f"/v2/{name}/blobs/{digest}", expect=307)
        with urllib.request.urlopen(answer.headers["location"], timeout=20) as found:
            assert found.read() == data


def test_a_store_that_is_away_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    settings = {"WHARF_BLOB_STORE": f"s3://bucket?endpoint=http://127.0.0.1:{port}", **CREDENTIALS}
    with registry_server(tmp_path, settings=settings) as away:
        alice = Registry(away.url, "alice", away.password, prefix="alice")
        name = alice.repository()
        answer = alice.call("PUT", with_digest(alice.start(name), digest_of(b"x")), b"x", expect=503)
        assert answer.headers["retry-after"] == "5"
        assert "does not answer" in answer.json()["errors"][0]["message"]


def test_a_bucket_that_is_not_there_is_named(s3: S3Server, tmp_path: Path) -> None:
    settings = {"WHARF_BLOB_STORE": s3.location("not-there"), **CREDENTIALS}
    with registry_server(tmp_path, settings=settings) as wrong:
        alice = Registry(wrong.url, "alice", wrong.password, prefix="alice")
        answer = alice.call("PUT", with_digest(alice.start(alice.repository()), digest_of(b"x")), b"x", expect=503)
        assert "no bucket not-there" in answer.json()["errors"][0]["message"]


@pytest.mark.timeout(120 + 20 * KILLS)
def test_one_of_two_processes_killed_under_load(server: RegistryServer, alice: Registry) -> None:
    """Every push succeeds after the client's own retry, and everything acknowledged is there."""
    pushers = Pushers(server, threads=6, sizes=(2000, 300_000, 6 << 20))
    with pushers:
        kills = 0
        while kills < KILLS or (pushers.retries == 0 and kills < KILLS + 20):  # one that hits no push shows nothing
            pushers.wait_for(8)
            server.kill_one(0)
            server.start_one()
            kills += 1
        pushers.wait_for(8)
    print(f"\n{len(pushers.acknowledged)} pushes, {pushers.retries} retried, {len(pushers.failed)} failed, {kills} kills")
    assert pushers.failed == []
    assert pushers.retries > 0, "the kills hit no push: the test shows nothing"
    pushers.check_all(alice)
