"""What a proxied namespace sends while it comes: blobs that stop, break or lie on their way, several readers and processes."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.conformance.distribution.client import Registry, digest_of
from tests.integration.controlplane.stores import wait_for
from tests.integration.registry.scripted import Asked, Says, Scripted, scripted
from tests.integration.registry.server import RegistryServer, registry_server
from tests.integration.registry.test_proxy import INDEX, KIND, admin, eventually, proxy
from tests.integration.registry.test_tokens import basic, bearer, get_token
from tests.integration.registry.world_bytes import manifest_of
from tests.servers import postgresql

PROCESSES = 2
CONNECTIONS = 12  # to the database, of each; six of its threads keep one
MiB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    settings = {"WHARF_REGISTRY_EGRESS_ALLOW": "127.0.0.1", "WHARF_DATABASE_POOL": str(CONNECTIONS)}
    options = {"settings": settings, "workers": PROCESSES}
    with postgresql() as url, registry_server(tmp_path_factory.mktemp("registry"), database_url=url, **options) as running:
        yield running
        assert "defect" not in running.log(), running.log()


@pytest.fixture(scope="module")
def proxied(server: RegistryServer) -> Iterator[Scripted]:
    """The other registry, shown as the namespace "streamed"."""
    with scripted(lambda asked: Says(200, {}, b"{}")) as site:
        proxy(server, "streamed", site.url, prefix="")
        for _ in range(2 * PROCESSES):  # each looks for itself which namespaces are proxied
            eventually(admin(server), f"/v2/streamed/none/blobs/{digest_of(b'{}')}", 200)
        yield site


@dataclass
class Image:
    """One image whose layer stops in the middle until `go_on`, or breaks there. `sent` is what comes as the layer."""

    layer: bytes = field(default_factory=lambda: os.urandom(3 * MiB))
    go_on: threading.Event = field(default_factory=threading.Event)
    cut: bool = False
    away: bool = False

    def __post_init__(self) -> None:
        self.raw = manifest_of(b"{}", [self.layer])
        self.sent = self.layer

    def __call__(self, asked: Asked) -> Says:
        if self.away:
            return Says(503)
        if "/manifests/" in asked.path:
            return Says(200, {"Content-Type": KIND, "Docker-Content-Digest": digest_of(self.raw)}, self.raw)
        if digest_of(b"{}") in asked.path:
            return Says(200, {}, b"{}")
        if digest_of(self.layer) not in asked.path:
            return Says(404)
        start = int(asked.headers.get("range", "bytes=0-")[6:-1])
        if self.cut and asked.method == "GET":
            self.away = True  # after the first half
            return Says(200, {}, self.sent, cut=len(self.sent) // 2)
        return Says(206 if start else 200, {}, self.sent[start:], hold=(2 * MiB, self.go_on) if not start else None)

    @property
    def path(self) -> str:
        return f"/blobs/{digest_of(self.layer)}"

    def fetches(self, site: Scripted) -> int:
        return len([path for path in site.calls("GET") if path.endswith(self.path)])


@pytest.fixture
def image(proxied: Scripted) -> Iterator[Image]:
    made = Image()
    proxied.answer = made
    yield made
    made.go_on.set()


class Reading:
    """One GET whose body the test reads as it comes."""

    def __init__(self, server: RegistryServer, name: str, path: str) -> None:
        token = get_token(server, [("scope", f"repository:{name}:pull")], basic("admin", server.password))
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.connection.request("GET", f"/v2/{name}{path}", None, bearer(token))
        self.answer = self.connection.getresponse()

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *exc: object) -> None:
        self.answer.close()
        self.connection.close()

    def rest(self) -> bytes:
        return self.answer.read()


def test_what_is_no_referrer_is_not_shown(server: RegistryServer, proxied: Scripted) -> None:
    good = {"mediaType": KIND, "digest": digest_of(b"good"), "size": 4}
    odd = [{**good, "digest": "none"}, {**good, "digest": digest_of(b"x"), "size": "4"}, {**good, "mediaType": None}, 7]
    more = {"artifactType": ["list"], "annotations": {"key": 1}, "urls": ["http://store.example.org"]}
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*odd, {**good, **more}]}).encode()
    path = f"/v2/streamed/odd/referrers/{digest_of(b'subject')}"
    proxied.answer = lambda asked: Says(200, {"Content-Type": INDEX}, body) if "/v2/odd/referrers/" in asked.path else Says(404)
    assert admin(server).call("GET", path, expect=200).json()["manifests"] == [good]


def test_an_image_is_answered_and_its_layer_sent_before_the_whole_has_come(
    server: RegistryServer, proxied: Scripted, image: Image
) -> None:
    root, name = admin(server), "streamed/early"
    got = root.call("GET", f"/v2/{name}/manifests/v1", expect=200)
    assert (got.body, got.headers["docker-content-digest"]) == (image.raw, digest_of(image.raw))
    assert root.call("HEAD", f"/v2/{name}/manifests/{digest_of(image.raw)}", expect=200).headers["content-type"] == KIND
    assert root.call("HEAD", f"/v2/{name}{image.path}", expect=200).headers["content-length"] == str(len(image.layer))
    assert root.call("GET", f"/v2/{name}/tags/list", expect=200).json()["tags"] == [], "it is kept when it is whole"
    with Reading(server, name, image.path) as reading:
        assert reading.answer.status == 200
        assert reading.answer.headers["docker-content-digest"] == digest_of(image.layer)
        begun = reading.answer.read(MiB)
        assert not image.go_on.is_set()
        image.go_on.set()
        assert begun + reading.rest() == image.layer
    wait_for(lambda: root.call("GET", f"/v2/{name}/tags/list").json()["tags"] == ["v1"], "the image is kept", 20)
    assert image.fetches(proxied) == 1
    image.away = True
    assert root.call("GET", f"/v2/{name}/manifests/v1", expect=200).body == image.raw
    assert root.call("GET", f"/v2/{name}{image.path}", expect=200).body == image.layer


def test_a_tag_that_moves_while_its_image_comes_stays_moved(server: RegistryServer, proxied: Scripted, image: Image) -> None:
    root, name, later = admin(server), "streamed/moving", Image()
    later.go_on.set()
    assert root.call("GET", f"/v2/{name}/manifests/v1", expect=200).body == image.raw
    with Reading(server, name, image.path) as reading:
        reading.answer.read(MiB)
        proxied.answer = later
        assert root.call("GET", f"/v2/{name}/manifests/v1", expect=200).body == later.raw
        wait_for(lambda: root.call("GET", f"/v2/{name}/tags/list").json()["tags"] == ["v1"], "the second is kept", 20)
        image.go_on.set()
        assert len(reading.rest()) == len(image.layer) - MiB
    later.away = True  # what is here now is all there is
    first = f"/v2/{name}/manifests/{digest_of(image.raw)}"
    wait_for(lambda: root.call("GET", first).status == 200, "the first is kept too, or still comes", 20)
    for _ in range(10):
        assert root.call("GET", f"/v2/{name}/manifests/v1", expect=200).body == later.raw


def test_many_readers_in_several_processes_fetch_a_blob_once(server: RegistryServer, proxied: Scripted, image: Image) -> None:
    name, count = "streamed/many", 8
    begun = threading.Barrier(count + 1, timeout=60)

    def read(_: int) -> bytes:
        with Reading(server, name, image.path) as reading:
            first = reading.answer.read(MiB)
            begun.wait()
            return first + reading.rest()

    with ThreadPoolExecutor(count) as readers:
        bodies = [readers.submit(read, number) for number in range(count)]
        begun.wait()  # each has its first piece, and the layer is not there yet
        image.go_on.set()
        assert [body.result(60) == image.layer for body in bodies] == [True] * count
    assert image.fetches(proxied) == 1


def test_other_bytes_never_end_well_and_are_not_kept(server: RegistryServer, proxied: Scripted, image: Image) -> None:
    root, name = admin(server), "streamed/lying"
    image.sent = os.urandom(len(image.layer))
    with Reading(server, name, image.path) as reading:
        assert int(reading.answer.headers["content-length"]) == len(image.layer)
        assert reading.answer.read(MiB) == image.sent[:MiB]
        image.go_on.set()
        with pytest.raises(http.client.IncompleteRead):
            reading.rest()
    image.sent = image.layer
    assert root.call("GET", f"/v2/{name}{image.path}", expect=200).body == image.layer
    assert image.fetches(proxied) == 2


def test_a_registry_that_dies_in_the_middle_leaves_nothing_half(server: RegistryServer, proxied: Scripted, image: Image) -> None:
    root, name = admin(server), "streamed/half"
    image.cut = True
    with Reading(server, name, image.path) as reading:
        assert reading.answer.status == 200
        with pytest.raises(http.client.IncompleteRead):
            reading.rest()
    assert root.call("GET", f"/v2/{name}{image.path}", expect=503).json()["errors"]
    root.call("GET", f"/v2/{name}/manifests/v1", expect=503)
    image.cut = image.away = False
    assert root.call("GET", f"/v2/{name}{image.path}", expect=200).body == image.layer
    ranges = [item.headers.get("range") for item in proxied.asked if item.method == "GET" and item.path.endswith(image.path)]
    assert ranges[0] is None
    assert ranges[-1] is not None, "what had come is not fetched again"


def test_a_reader_who_leaves_does_not_end_the_fetch(server: RegistryServer, proxied: Scripted, image: Image) -> None:
    root, name = admin(server), "streamed/left"
    with Reading(server, name, image.path) as reading:
        reading.answer.read(MiB)
    image.go_on.set()
    part = root.call("GET", f"/v2/{name}{image.path}", headers={"Range": f"bytes={2 * MiB}-"}, expect=206)
    assert part.body == image.layer[2 * MiB :], "a part waits for the whole"
    assert image.fetches(proxied) == 1


def test_what_neither_has_is_unknown_and_strangers_cause_no_request(
    server: RegistryServer, proxied: Scripted, image: Image
) -> None:
    root, charlie = admin(server), Registry(server.url, "charlie", server.password)
    unknown = f"/v2/streamed/unknown/blobs/{digest_of(b'nowhere')}"
    assert root.call("GET", unknown, expect=404).error_codes() == ["BLOB_UNKNOWN"]
    root.call("HEAD", unknown, expect=404)
    before = len(proxied.asked)
    charlie.call("GET", f"/v2/streamed/unknown{image.path}", expect=401)
    charlie.call("HEAD", f"/v2/streamed/unknown{image.path}", expect=401)
    assert len(proxied.asked) == before


def test_what_comes_slowly_holds_no_database_connection(server: RegistryServer, proxied: Scripted) -> None:
    name, images = "streamed/slow", [Image() for _ in range(20)]

    def answer(asked: Asked) -> Says:
        return next((made(asked) for made in images if made.path in asked.path), Says(404))

    proxied.answer = answer
    with ExitStack() as stack:
        readings = [stack.enter_context(Reading(server, name, made.path)) for made in images]
        for reading in readings:
            reading.answer.read(MiB)
        root = admin(server)
        for _ in range(2 * PROCESSES):
            root.call("GET", "/v2/_catalog", expect=200)
        for made in images:
            made.go_on.set()
        assert [len(reading.rest()) for reading in readings] == [2 * MiB] * len(images)
