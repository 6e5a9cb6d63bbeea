"""kill -9 of the web process and of a collector at random bytes of pushes: every retry succeeds, nothing is lost or left over.

WHARF_KILLED_PUSHES=500 cuts so many pushes; ten at a time.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conformance.distribution.client import Registry, digest_of, with_digest
from tests.integration.controlplane.stores import wait_for
from tests.integration.registry import world_bytes
from tests.integration.registry.server import ROOT, RegistryServer, registry_server
from tests.s3 import CREDENTIALS, s3_server
from tests.servers import postgresql

PUSHES = int(os.environ.get("WHARF_KILLED_PUSHES", "10"))
AT_ONCE = 10
GARBAGE = 40
SECONDS = 60 + 4 * PUSHES
LIMITS = {"WHARF_REGISTRY_GC_GRACE": "600", "WHARF_REGISTRY_CREATE_ON_PUSH": "1"}


@dataclass
class Image:
    """One push: a config that the collector knows as garbage, a layer of its own, a manifest."""

    name: str
    config: bytes
    layer: bytes
    manifest: bytes
    path: str  # which way the layer takes: "patch", "put", "post"
    stop: int  # bytes of the layer that go out before the kill; more than it has: the kill meets the commit or the manifest
    cut: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(params=["files", "s3"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryServer]:
    with ExitStack() as stack:
        options: dict[str, object] = {"settings": dict(LIMITS)}
        if request.param == "s3":
            s3 = stack.enter_context(s3_server())
            options["database_url"] = stack.enter_context(postgresql())
            options["settings"] = {**LIMITS, "WHARF_BLOB_STORE": s3.location(s3.bucket(), part=5), **CREDENTIALS}
        yield stack.enter_context(registry_server(tmp_path, **options))


def image(number: int, rand: random.Random) -> Image:
    config = f"garbage {rand.randrange(GARBAGE)}".encode()
    layer = rand.randbytes(rand.choice([0, 3000, 200_000, 2 << 20, 7 << 20]))
    path = rand.choice(["patch", "put", "post"])
    stop = rand.randint(0, len(layer)) if rand.random() < 0.6 else len(layer) + 1
    return Image(f"alice/r{number % 7}", config, layer, world_bytes.manifest_of(config, [layer]), path, stop)


def push(registry: Registry, image: Image, tag: str) -> None:
    """As clients do it; raises AssertionError for any refusal."""
    registry.push_blob(image.name, image.config)
    if registry.call("HEAD", f"/v2/{image.name}/blobs/{digest_of(image.layer)}").status != 200:
        registry.push_blob(image.name, image.layer)
    registry.push_manifest(image.name, tag, image.manifest, world_bytes.MEDIA_OCI_MANIFEST)


def push_until_killed(server: RegistryServer, image: Image, tag: str) -> None:
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
            registry.call("PUT", with_digest(location, digest), b"")
        registry.push_manifest(image.name, tag, image.manifest, world_bytes.MEDIA_OCI_MANIFEST)
    except (OSError, AssertionError, StopIteration):
        pass  # the server died under it: that is the point
    finally:
        image.cut.set()


def _send(server: RegistryServer, method: str, target: str, token: str, image: Image) -> None:
    head = [f"{method} {urlsplit(target).path}{'?' + urlsplit(target).query if urlsplit(target).query else ''} HTTP/1.1"]
    head += [f"Host: {server.host}", f"Authorization: Bearer {token}", f"Content-Length: {len(image.layer)}", "Connection: close"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall("\r\n".join([*head, "", ""]).encode() + image.layer[: image.stop])
        image.cut.set()
        while sock.recv(65536):  # until it is answered, or dies
            pass


@pytest.fixture
def collector(server: RegistryServer) -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait(30)


def start_collector(server: RegistryServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.integration.registry.collect_forever", str(GARBAGE)]
    with (server.home / "collector.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=server.environment, stdout=log, stderr=log)


def turns(server: RegistryServer) -> int:
    return (server.home / "collector.log").read_bytes().count(b"turn ")


@pytest.mark.timeout(SECONDS)
def test_kills_at_random_bytes(server: RegistryServer, collector: list[subprocess.Popen[bytes]]) -> None:
    rand = random.Random(int(os.environ.get("WHARF_KILL_SEED", "7")))
    done: list[tuple[Image, str]] = []
    for start in range(0, PUSHES, AT_ONCE):
        before = turns(server) if start else 0
        collector.append(start_collector(server))
        wait_for(lambda before=before: turns(server) > before or collector[0].poll() is not None, "the collector's first turn")
        assert collector[0].poll() is None, (server.home / "collector.log").read_text()[-3000:]
        images = [(image(number, rand), f"t{number}") for number in range(start, start + AT_ONCE)]
        threads = [threading.Thread(target=push_until_killed, args=(server, *each)) for each in images]
        for thread in threads:
            thread.start()
        for each, _ in images[: rand.randint(1, AT_ONCE)]:  # where the kill finds the others is chance
            assert each.cut.wait(60)
        collector[0].kill()
        server.kill()
        collector.pop().wait(30)
        server.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        registry = Registry(server.url, "alice", server.password, prefix="alice")
        for each, tag in images:
            push(registry, each, tag)
            done.append((each, tag))
    check(server, done)
    print(f"\n{len(done)} pushes cut by {len(done) // AT_ONCE} kills of web and collector: every retry succeeded, nothing lost")


def check(server: RegistryServer, done: list[tuple[Image, str]]) -> None:
    """Everything pushed is there byte for byte, and once the time-out is over nothing else is."""
    registry = Registry(server.url, "alice", server.password, prefix="alice")
    for each, tag in done:
        assert registry.call("GET", f"/v2/{each.name}/manifests/{tag}", expect=200).body == each.manifest
        for data in (each.config, each.layer):
            assert registry.call("GET", f"/v2/{each.name}/blobs/{digest_of(data)}", expect=200).body == data
    program = (
        "import django; django.setup()\n"
        "from django.utils import timezone\n"
        "from datetime import timedelta\n"
        "from registry.actions import collect, reconcile\n"
        "from registry.models import Upload\n"
        "from registry.storage import open_store\n"
        "from tests.integration.registry import world\n"
        "store = open_store()\n"
        "Upload.objects.update(expires_at=timezone.now() - timedelta(days=1), busy_until=None)\n"  # whoever wrote is dead
        "collect.collect(store)\n"
        "found = reconcile.reconcile(store)\n"
        "left = [session for session, age in store.uploads() if age > 1]\n"
        "counts = [found.missing.count, found.wrong_size.count, found.orphans.count, Upload.objects.count()]\n"
        "print(world.lost_blobs(store), counts, left)\n"
    )
    answers: list[str] = []

    def clean() -> bool:
        answers.append(server.python_with(program, WHARF_REGISTRY_UPLOAD_TTL="1").strip())
        return answers[-1] == "[] [0, 0, 0, 0] []"

    wait_for(clean, "nothing is left over")
    assert all(answer.startswith("[] [0, 0, ") for answer in answers), answers
