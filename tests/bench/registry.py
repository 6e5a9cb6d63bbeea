"""Push and pull against Debian's docker-registry: plain HTTP against plain HTTP, TLS against TLS, both durable before 201.

    python -m tests.bench.registry [ROUNDS]

Ours runs with tokens, RBAC and SQLite; the peer without any authentication, one process each, on one file system.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import http.client
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from tests.bench.lean import Work, drive, request
from tests.bench.measure import HIGHER, LOWER, Measure, Series, Target, percentile, run_alone
from tests.conformance.distribution.anchor import BINARY, docker_registry
from tests.integration.registry.server import RegistryServer, registry_server

BIG = 100 << 20
SMALL = 16 << 10
NAME = "alice/bench"
TRUSTING = ssl._create_unverified_context()  # certificates of a test authority: their check is no part of the comparison


@dataclass
class Peer:
    url: str
    headers: dict[str, str]

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=120, context=TRUSTING)
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


def lanes(works: int, threads: int, work: Callable[[int], Work]) -> list[Iterator[Work]]:
    """`works` works over `threads` connections."""
    return [map(work, range(number, works, threads)) for number in range(threads)]


def small_push(peer: Peer, data: bytes, digest: str) -> Work:
    """`push` of a blob that fits into one send."""
    reply = yield request("POST", f"/v2/{NAME}/blobs/uploads/", peer.headers)
    assert reply.status == 202, reply
    reply = yield request("PATCH", reply.path, {**peer.headers, "Content-Type": "application/octet-stream"}, data)
    assert reply.status == 202, reply
    location = reply.path
    reply = yield request("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", peer.headers)
    assert reply.status == 201, reply


def push_small(peer: Peer, threads: int) -> float:
    blobs = [os.urandom(SMALL) for _ in range(400)]
    digests = [digest_of(blob) for blob in blobs]
    works = lanes(len(blobs), threads, lambda index: small_push(peer, blobs[index], digests[index]))
    return len(blobs) / drive(peer.url, works, TRUSTING)[0]


def _small(peer: Peer) -> str:
    data = os.urandom(SMALL)
    push(peer.connect(), peer, data, digest_of(data))
    return digest_of(data)


def ask(raw: bytes, size: int) -> Work:
    reply = yield raw
    assert (reply.status, reply.size) == (200, size), reply


def read_small(peer: Peer, threads: int, method: str) -> float:
    works, raw = 4000, request(method, f"/v2/{NAME}/blobs/{_small(peer)}", peer.headers)
    return works / drive(peer.url, lanes(works, threads, lambda _: ask(raw, SMALL if method == "GET" else 0)), TRUSTING)[0]


def read_each_once(peer: Peer, threads: int) -> float:
    """As a node pulls: no blob twice, so nothing of the kind that a server has answered before."""
    blobs = [os.urandom(SMALL) for _ in range(400)]
    digests = [digest_of(blob) for blob in blobs]
    drive(peer.url, lanes(len(blobs), threads, lambda index: small_push(peer, blobs[index], digests[index])), TRUSTING)
    raws = [request("GET", f"/v2/{NAME}/blobs/{digest}", peer.headers) for digest in digests]
    return len(raws) / drive(peer.url, lanes(len(raws), threads, lambda index: ask(raws[index], SMALL)), TRUSTING)[0]


def tagged(peer: Peer) -> tuple[bytes, int]:
    """Store a manifest under the tag `tag`; the request for it and its size."""
    config = os.urandom(100)
    push(peer.connect(), peer, config, digest_of(config))
    kind = "application/vnd.oci.image.manifest.v1+json"
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config), "size": 100}
    body = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": described, "layers": []}).encode()
    call(peer.connect(), peer, "PUT", f"/v2/{NAME}/manifests/tag", body, 201, kind=kind)
    return request("GET", f"/v2/{NAME}/manifests/tag", {**peer.headers, "Accept": kind}), len(body)


def manifests(peer: Peer, threads: int) -> list[float]:
    """[per second, p50 ms, p99 ms] of a manifest by tag."""
    works, (raw, size) = 4000, tagged(peer)
    seconds, took = drive(peer.url, lanes(works, threads, lambda _: ask(raw, size)), TRUSTING)
    return [works / seconds, percentile(took, 0.5), percentile(took, 0.99)]


Question = tuple[str, str, str]  # what, unit, better
QUESTIONS: list[tuple[list[Question], Callable[[Peer], list[float]]]] = [
    ([("push 100 MB, N=1", "MB/s", HIGHER)], lambda peer: [push_big(peer, 1)]),
    ([("push 100 MB, N=8", "MB/s", HIGHER)], lambda peer: [push_big(peer, 8)]),
    ([("pull 100 MB, N=1", "MB/s", HIGHER)], lambda peer: [pull_big(peer, 1)]),
    ([("pull 100 MB, N=8", "MB/s", HIGHER)], lambda peer: [pull_big(peer, 8)]),
    ([("push 16 KiB, N=8", "per s", HIGHER)], lambda peer: [push_small(peer, 8)]),
    ([("pull 16 KiB, N=8", "per s", HIGHER)], lambda peer: [read_small(peer, 8, "GET")]),
    ([("pull 16 KiB, N=8, each blob once", "per s", HIGHER)], lambda peer: [read_each_once(peer, 8)]),
    ([("HEAD blob, N=8", "per s", HIGHER)], lambda peer: [read_small(peer, 8, "HEAD")]),
    (
        [
            ("GET manifest by tag, c=8", "per s", HIGHER),
            ("GET manifest by tag, c=8, p50", "ms", LOWER),
            ("GET manifest by tag, c=8, p99", "ms", LOWER),
        ],
        lambda peer: manifests(peer, 8),
    ),
]
# in times of docker-registry's figure, over plain HTTP
TARGETS = {
    "push 100 MB, N=1": 1.2,
    "push 100 MB, N=8": 1.8,
    "pull 100 MB, N=1": 1.0,
    "pull 100 MB, N=8": 1.2,
    "push 16 KiB, N=8": 8.0,
    "pull 16 KiB, N=8": 10.0,
    "HEAD blob, N=8": 10.0,
    "GET manifest by tag, c=8": 4.0,
    "GET manifest by tag, c=8, p99": 0.5,
}
# TLS is the same code above the socket: the rows where encryption shows
OVER_TLS = ("push 100 MB, N=1", "push 100 MB, N=8", "pull 100 MB, N=1", "pull 100 MB, N=8", "GET manifest by tag, c=8")


def token(url: str, password: str) -> str:
    connection = Peer(url, {}).connect()
    basic = base64.b64encode(f"alice:{password}".encode()).decode()
    scope = quote(f"repository:{NAME}:pull,push")
    connection.request("GET", f"/v2/token?scope={scope}", headers={"Authorization": f"Basic {basic}"})
    return str(json.loads(connection.getresponse().read())["token"])


def ours(url: str, password: str) -> Peer:
    """With a fresh token: one lives for five minutes."""
    return Peer(url, {"Authorization": f"Bearer {token(url, password)}"})


def compare(rounds: int, server: RegistryServer, url: str, peer_url: str, way: str) -> Iterator[Measure]:
    """Every question over `way`, us and docker-registry in turn."""
    for questions, ask in QUESTIONS:
        if way == "TLS" and questions[0][0] not in OVER_TLS:
            continue
        rows = [(ask(ours(url, server.password)), ask(Peer(peer_url, {}))) for _ in range(rounds)]
        for index, (what, unit, better) in enumerate(questions):
            series = [
                Series("wharfinger", [mine[index] for mine, _ in rows]),
                Series("docker-registry", [theirs[index] for _, theirs in rows], peer=True),
            ]
            wanted = [Target("wharfinger", TARGETS[what], "docker-registry")] if way != "TLS" and what in TARGETS else []
            yield Measure("registry", f"{what}, {way}", unit, series, better, targets=wanted)


def anonymous_memory(pid: int) -> float:
    """MiB that are not backed by a file."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def measures(rounds: int) -> Iterator[Measure]:
    if BINARY is None:
        raise SystemExit("docker-registry is not installed: deploy/prepare bench")
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as name, ExitStack() as stack:
        places = {key: Path(name) / key for key in ("ours", "plain", "tls")}
        for place in places.values():
            place.mkdir()
        server = stack.enter_context(registry_server(places["ours"]))
        plain = stack.enter_context(docker_registry(places["plain"]))
        secure = stack.enter_context(docker_registry(places["tls"], (server.certificate, server.key)))
        idle = anonymous_memory(server.processes[0].pid)
        yield from compare(rounds, server, server.url, plain, "plain HTTP")
        yield from compare(rounds, server, f"https://{server.tls_host}", secure, "TLS")
        after = anonymous_memory(server.processes[0].pid)
        series = [Series("wharfinger, before", [idle]), Series("wharfinger, after all of the above", [after])]
        yield Measure("registry", "memory of the web process, RssAnon", "MiB", series)


if __name__ == "__main__":
    run_alone(measures, 3)
