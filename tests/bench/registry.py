"""Push and pull against Debian's docker-registry, interleaved, both plain HTTP and both durable before 201.

    python -m tests.bench.registry [ROUNDS]

Ours runs with tokens, RBAC and SQLite; the peer without any authentication. Prints medians and the ratio ours / peer.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from tests.conformance.distribution.anchor import BINARY, docker_registry
from tests.integration.registry.server import registry_server

BIG = 100 << 20
SMALL = 16 << 10
NAME = "alice/bench"


@dataclass
class Peer:
    url: str
    headers: dict[str, str]

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)


def call(
    connection: http.client.HTTPConnection, peer: Peer, method: str, path: str, body: bytes | None, expect: int, **more: str
) -> tuple[dict[str, str], int]:
    headers = {**peer.headers, **({"Content-Type": more["kind"]} if "kind" in more else {})}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    size = 0
    buffer = bytearray(1 << 20)
    while count := response.readinto(buffer):
        size += count
    assert response.status == expect, (method, path, response.status)
    return {name.lower(): value for name, value in response.getheaders()}, size


def push(connection: http.client.HTTPConnection, peer: Peer, data: bytes, digest: str) -> None:
    """As dockerd and skopeo push: POST, one PATCH, PUT."""
    headers, _ = call(connection, peer, "POST", f"/v2/{NAME}/blobs/uploads/", b"", 202)
    location = headers["location"].removeprefix(peer.url)
    headers, _ = call(connection, peer, "PATCH", location, data, 202, kind="application/octet-stream")
    location = headers["location"].removeprefix(peer.url)
    separator = "&" if "?" in location else "?"
    call(connection, peer, "PUT", f"{location}{separator}digest={digest}", b"", 201)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def spread(peer: Peer, works: int, threads: int, work: Callable[[http.client.HTTPConnection, int], None]) -> float:
    """Seconds for `works` calls of `work` over `threads` connections."""

    def lane(number: int) -> None:
        connection = peer.connect()
        for index in range(number, works, threads):
            work(connection, index)
        connection.close()

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(lane, range(threads)))
    return time.perf_counter() - start


def push_big(peer: Peer, threads: int) -> float:
    blobs = [os.urandom(1 << 20) * 100 for _ in range(threads)]
    digests = [digest_of(blob) for blob in blobs]
    return len(blobs) * 100 / spread(peer, threads, threads, lambda link, index: push(link, peer, blobs[index], digests[index]))


def pull_big(peer: Peer, threads: int) -> float:
    data = os.urandom(1 << 20) * 100
    digest = digest_of(data)
    push(peer.connect(), peer, data, digest)
    works = 8

    def pull(connection: http.client.HTTPConnection, index: int) -> None:
        assert call(connection, peer, "GET", f"/v2/{NAME}/blobs/{digest}", None, 200)[1] == BIG

    return works * 100 / spread(peer, works, threads, pull)


def push_small(peer: Peer, threads: int) -> float:
    blobs = [os.urandom(SMALL) for _ in range(160)]
    digests = [digest_of(blob) for blob in blobs]
    return len(blobs) / spread(peer, len(blobs), threads, lambda link, index: push(link, peer, blobs[index], digests[index]))


def _small(peer: Peer) -> str:
    data = os.urandom(SMALL)
    push(peer.connect(), peer, data, digest_of(data))
    return digest_of(data)


def read_small(peer: Peer, threads: int, method: str) -> float:
    digest, works = _small(peer), 1200
    return works / spread(
        peer, works, threads, lambda link, _: void(call(link, peer, method, f"/v2/{NAME}/blobs/{digest}", None, 200))
    )


def void(_: object) -> None:
    return None


def manifest(peer: Peer, threads: int) -> float:
    config = os.urandom(100)
    push(peer.connect(), peer, config, digest_of(config))
    kind = "application/vnd.oci.image.manifest.v1+json"
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config), "size": 100}
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": described, "layers": []}).encode()
    call(peer.connect(), peer, "PUT", f"/v2/{NAME}/manifests/tag", body, 201, kind=kind)
    works = 1200
    accepting = Peer(peer.url, {**peer.headers, "Accept": kind})
    return works / spread(
        peer, works, threads, lambda link, _: void(call(link, accepting, "GET", f"/v2/{NAME}/manifests/tag", None, 200))
    )


MEASURES: list[tuple[str, Callable[[Peer], float]]] = [
    ("push 100 MB, N=1, MB/s", lambda peer: push_big(peer, 1)),
    ("push 100 MB, N=8, MB/s", lambda peer: push_big(peer, 8)),
    ("pull 100 MB, N=1, MB/s", lambda peer: pull_big(peer, 1)),
    ("pull 100 MB, N=8, MB/s", lambda peer: pull_big(peer, 8)),
    ("push 16 KiB, N=1, per s", lambda peer: push_small(peer, 1)),
    ("push 16 KiB, N=8, per s", lambda peer: push_small(peer, 8)),
    ("pull 16 KiB, N=8, per s", lambda peer: read_small(peer, 8, "GET")),
    ("HEAD blob, N=8, per s", lambda peer: read_small(peer, 8, "HEAD")),
    ("GET manifest by tag, N=8, per s", lambda peer: manifest(peer, 8)),
]


def token(url: str, password: str) -> str:
    connection = Peer(url, {}).connect()
    basic = base64.b64encode(f"alice:{password}".encode()).decode()
    scope = quote(f"repository:{NAME}:pull,push")
    connection.request("GET", f"/v2/token?scope={scope}", headers={"Authorization": f"Basic {basic}"})
    return str(json.loads(connection.getresponse().read())["token"])


def main(rounds: int) -> None:
    if BINARY is None:
        raise SystemExit("docker-registry is not installed (Debian package docker-registry)")
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as name:
        directory = Path(name)
        (directory / "ours").mkdir()
        with registry_server(directory / "ours") as server, docker_registry(directory) as url:
            print(f"{'':36}{'ours':>10}{'peer':>10}{'ratio':>8}   ({rounds} rounds, interleaved, medians)")
            for label, measure in MEASURES:
                ours: list[float] = []
                theirs: list[float] = []
                for _ in range(rounds):
                    ours.append(measure(Peer(server.url, {"Authorization": f"Bearer {token(server.url, server.password)}"})))
                    theirs.append(measure(Peer(url, {})))
                a, b = statistics.median(ours), statistics.median(theirs)
                print(f"{label:36}{a:10.0f}{b:10.0f}{a / b:7.2f}x", flush=True)
            process = server.processes[0]
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            print("ours,", *(line for line in status if line.startswith("RssAnon")))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
