"""kill -9 of the web process and of the worker at random bytes of pushes: every retry succeeds, nothing is lost or left over.

The worker collects garbage without pause, ends old uploads and promotes what is pushed. WHARF_KILLED_PUSHES=500 goes on until so
many pushes were cut; ten at a time.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conformance.distribution.client import Registry, digest_of, with_digest
from tests.integration.controlplane.stores import wait_for
from tests.integration.registry import world_bytes
from tests.integration.registry.server import RegistryServer, registry_server
from tests.integration.registry.working import Works
from tests.s3 import CREDENTIALS, S3Server, s3_server
from tests.servers import postgresql, valkey

PUSHES = int(os.environ.get("WHARF_KILLED_PUSHES", "5"))
SEED = os.environ.get("WHARF_KILL_SEED", "7")
AT_ONCE = 10
GARBAGE = 40
REPOSITORIES = 7
SOURCE, TARGET = "alice/r0", "alice/promoted"  # all of one goes to the other
SECONDS = 90 + 5 * PUSHES
LIMITS = {"WHARF_REGISTRY_GC_GRACE": "600", "WHARF_REGISTRY_CREATE_ON_PUSH": "1"}


@dataclass
class Image:
    """One push: a config that the collector knows as garbage, a layer of its own, a manifest."""

    tag: str
    name: str
    config: bytes
    layer: bytes
    manifest: bytes
    path: str  # which way the layer takes: "patch", "put", "post"
    stop: int  # bytes of the layer that go out before the kill; more than it has: the kill meets the commit or the manifest
    cut: threading.Event = field(default_factory=threading.Event)
    acknowledged: bool = False


@dataclass
class Place:
    """A server, and what its blob store holds as others see it: names of files or objects."""

    server: RegistryServer
    stored: Callable[[], list[str]]


@pytest.fixture(params=["files", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        settings = {**LIMITS, "WHARF_REDIS_URL": stack.enter_context(valkey())}
        options: dict[str, object] = {"settings": settings}
        if request.param == "s3":
            s3 = stack.enter_context(s3_server())
            bucket = s3.bucket()
            options["database_url"] = stack.enter_context(postgresql())
            settings |= {"WHARF_BLOB_STORE": s3.location(bucket, "", part=5), **CREDENTIALS}
        server = stack.enter_context(registry_server(tmp_path, **options))
        yield Place(server, lambda: _objects(s3, bucket) if request.param == "s3" else _files(tmp_path / "blobs"))


def _files(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def _objects(s3: S3Server, bucket: str) -> list[str]:
    """Objects, and uploads in parts that were neither completed nor aborted."""
    client, found = s3.client(), []
    for call, field_ in (("list_objects_v2", "Contents"), ("list_multipart_uploads", "Uploads")):
        for page in client.get_paginator(call).paginate(Bucket=bucket):
            found += [f"{row['Key']}{' in parts' * (field_ == 'Uploads')}" for row in page.get(field_, ())]
    client.close()
    return found


@pytest.fixture
def works(place: Place) -> Iterator[Works]:
    works = Works(place.server, GARBAGE, SOURCE, TARGET)
    try:
        yield works
    finally:
        works.close()


def image(number: int) -> Image:
    """The same for the same number: what was pushed need not be kept."""
    rand = random.Random(f"{SEED} {number}")
    config = f"garbage {rand.randrange(GARBAGE)}".encode()
    layer = rand.randbytes(rand.choice([0, 3000, 200_000, 2 << 20, 7 << 20]))
    path = rand.choice(["patch", "put", "post"])
    stop = rand.randint(0, len(layer)) if rand.random() < 0.6 else len(layer) + 1
    manifest = world_bytes.manifest_of(config, [layer])
    return Image(f"t{number}", f"alice/r{number % REPOSITORIES}", config, layer, manifest, path, stop)


def push(server: RegistryServer, image: Image) -> None:
    """As clients do it; raises AssertionError for any refusal."""
    registry = Registry(server.url, "alice", server.password, prefix="alice")
    registry.push_blob(image.name, image.config)
    if registry.call("HEAD", f"/v2/{image.name}/blobs/{digest_of(image.layer)}").status != 200:
        registry.push_blob(image.name, image.layer)
    registry.push_manifest(image.name, image.tag, image.manifest, world_bytes.MEDIA_OCI_MANIFEST)


def push_until_killed(server: RegistryServer, image: Image) -> None:
    registry = Registry(server.url, "alice", server.password, prefix="alice")
    try:
        registry.push_blob(image.name, image.config)
        digest = digest_of(image.layer)
        location = registry.start(image.name)
        token = next(value for key, value in registry.tokens.items() if key == f"POST /v2/{image.name}")
        method, target = {
            "patch": ("PATCH", location),
            "put": ("PUT", with_digest(location, digest)),
            "post": ("POST", f"/v2/{image.name}/blobs/uploads/?digest={digest}"),
        }[image.path]
        _send(server, method, target, token, image)
        if image.path == "patch":
            registry.call("PUT", with_digest(location, digest), b"", expect=201)
        registry.push_manifest(image.name, image.tag, image.manifest, world_bytes.MEDIA_OCI_MANIFEST)
        image.acknowledged = True
    except (OSError, AssertionError, StopIteration):
        pass  # the server died under it: that is the point
    finally:
        image.cut.set()


def _send(server: RegistryServer, method: str, target: str, token: str, image: Image) -> None:
    head = [f"{method} {urlsplit(target).path}{'?' + urlsplit(target).query if urlsplit(target).query else ''} HTTP/1.1"]
    head += [f"Host: {server.host}", f"Authorization: Bearer {token}", f"Content-Length: {len(image.layer)}", "Connection: close"]
    # one that the server had not accepted when it died comes to the next, which waits for the rest as we do for the answer
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall("\r\n".join([*head, "", ""]).encode() + image.layer[: image.stop])
        image.cut.set()
        while sock.recv(65536):  # until it is answered, or dies
            pass


def kill_under(server: RegistryServer, works: Works, images: list[Image], rand: random.Random) -> None:
    """The images are pushed, the worker and the web process die at moments of their own, and both are there again."""

    def replace_web() -> None:
        server.kill()
        server.start()  # at once: who connects meanwhile waits in the socket's queue

    def replace_worker() -> None:
        works.kill()
        works.end_leases()
        works.start()

    threads = [threading.Thread(target=push_until_killed, args=(server, each)) for each in images]
    for thread in threads:
        thread.start()
    deaths = [(rand.randint(1, AT_ONCE), replace) for replace in (replace_worker, replace_web)]
    for count, replace in sorted(deaths, key=lambda item: item[0]):
        for each in images[:count]:  # where the kill finds the others is chance
            assert each.cut.wait(60)
        replace()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.timeout(SECONDS)
def test_kills_at_random_bytes(place: Place, works: Works) -> None:
    rand, server = random.Random(SEED), place.server
    pushed = cut = kills = 0
    works.start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while cut < PUSHES:
            works.wait_for_collections(1)
            images = [image(number) for number in range(pushed, pushed + AT_ONCE)]
            kill_under(server, works, images, rand)
            pushed, kills = pushed + AT_ONCE, kills + 1
            again = [each for each in images if not each.acknowledged]
            list(pool.map(lambda each: push(server, each), again))  # raises what a retry raised
            cut += len(again)
    check(place, works, pushed)
    print(f"\n{cut} of {pushed} pushes cut by {kills} kills of web and worker: every retry succeeded, nothing lost or left over")


def check(place: Place, works: Works, pushed: int) -> None:
    """Everything pushed is there byte for byte, and promoted; once the time-out is over nothing else is."""
    server = place.server
    registry = Registry(server.url, "alice", server.password, prefix="alice")
    tags, digests = {}, set()
    for each in map(image, range(pushed)):
        assert registry.call("GET", f"/v2/{each.name}/manifests/{each.tag}", expect=200).body == each.manifest
        for data in (each.config, each.layer):
            assert registry.call("GET", f"/v2/{each.name}/blobs/{digest_of(data)}", expect=200).body == data
            digests.add(digest_of(data))
        if each.name == SOURCE:
            tags[each.tag] = digest_of(each.manifest)
    listing = f"/v2/{TARGET}/tags/list?n=1000"
    wait_for(lambda: set(registry.call("GET", listing, expect=200).json()["tags"]) >= set(tags), "everything is promoted")
    works.close()
    told: dict[str, Any] = {}

    def clean() -> bool:
        told.update(json.loads(server.module("tests.integration.registry.aftermath")))
        assert told["lost"] == []
        assert told["reconciled"][:2] == [0, 0]
        return told["reconciled"] == [0, 0, 0, 0] and told["uploads"] == []

    wait_for(clean, "nothing is left over")
    assert told["promoted"] == tags
    assert told["failed"] == []
    assert set(told["digests"]) >= digests
    names = [name for name in place.stored() if not name.startswith("trash/")]
    journals = [name for name in names if name.startswith("journal/")]
    assert len(journals) <= 2, "the server's own are all that there are"
    known = {f"blobs/{algorithm}/{text[:2]}/{text}" for algorithm, text in (each.split(":") for each in told["digests"])}
    assert sorted(set(names) - set(journals)) == sorted(known)
    assert "defect" not in (server.home / "server.log").read_text("utf-8", "replace")
