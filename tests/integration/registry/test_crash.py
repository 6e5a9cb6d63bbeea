"""kill -9 of the web process at random bytes of an upload: the retry succeeds, nothing corrupt is ever served."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import socket
import threading
from pathlib import Path

import pytest

from tests.conformance.distribution.client import Registry, digest_of, with_digest
from tests.integration.controlplane.stores import wait_for
from tests.integration.registry.server import RegistryServer, registry_server

SIZE = 6 << 20


def _head(server: RegistryServer, location: str, token: str, length: str) -> bytes:
    lines = [f"PATCH {location} HTTP/1.1", f"Host: {server.host}", f"Authorization: Bearer {token}", length, "", ""]
    return "\r\n".join(lines).encode()


def _send_until(server: RegistryServer, location: str, token: str, data: bytes, stop: int, at_stop: threading.Event) -> None:
    """PATCH `data` as a chunked stream, pausing after `stop` bytes until the connection dies."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    try:
        sock.sendall(_head(server, location, token, "Transfer-Encoding: chunked"))
        sent = 0
        while sent < stop:
            piece = data[sent : min(sent + 60_000, stop)]
            sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            sent += len(piece)
        at_stop.set()
        sock.settimeout(2)  # a connection that was never accepted outlives the server, in the socket's queue
        sock.recv(1)
    except OSError:
        pass  # the server died: that is the point
    finally:
        at_stop.set()
        sock.close()


@pytest.mark.parametrize("seed", range(5))
def test_killed_in_the_middle_of_an_upload(tmp_path: Path, seed: int) -> None:
    rand = random.Random(seed)
    data = rand.randbytes(SIZE)
    digest = digest_of(data)
    with registry_server(tmp_path) as server:
        alice = Registry(server.url, "alice", server.password, prefix="alice")
        name = alice.repository()
        location = alice.start(name)
        token = next(iter(alice.tokens.values()))
        at_stop = threading.Event()
        stop = rand.randint(1, SIZE)
        sender = threading.Thread(target=_send_until, args=(server, location, token, data, stop, at_stop))
        sender.start()
        assert at_stop.wait(30)
        server.kill()
        sender.join(30)
        server.start()

        alice.call("HEAD", f"/v2/{name}/blobs/{digest}", expect=404)
        # The session may be continued from where it says it ends, once the dead writer's lease has run out...
        offsets: list[int] = []

        def resumed() -> bool:
            shown = alice.call("GET", location, expect=204).headers["range"]
            last = int(shown.partition("-")[2])
            offset = last + 1 if last else 0
            rest = data[offset:]
            headers = {"Content-Range": f"{offset}-{offset + len(rest) - 1}"}
            offsets.append(offset)
            return alice.call("PATCH", location, rest, headers, expect=(202, 416)).status == 202

        wait_for(resumed, "the dead writer's lease ends")
        assert all(offset <= stop for offset in offsets)
        alice.call("PUT", with_digest(location, digest), b"", expect=201)
        assert hashlib.sha256(alice.call("GET", f"/v2/{name}/blobs/{digest}", expect=200).body).hexdigest() == digest[7:]
        # ... and a fresh push, which is what clients do, works at once.
        other = rand.randbytes(1000)
        alice.push_blob(name, other)
        alice.push_blob(name, data)


def test_killed_at_any_moment_of_many_small_pushes(tmp_path: Path) -> None:
    """What was answered with 201 is there after kill -9, whole; and all of it can be pushed again."""
    rand = random.Random(11)
    acknowledged: dict[str, bytes] = {}
    with registry_server(tmp_path) as server:
        for _ in range(2):
            alice = Registry(server.url, "alice", server.password, prefix="alice")
            alice.push_blob("alice/small", b"first")
            goal = len(acknowledged) + rand.randint(5, 25)
            reached, stopping = threading.Event(), threading.Event()

            def push(
                registry: Registry = alice,
                goal: int = goal,
                reached: threading.Event = reached,
                stopping: threading.Event = stopping,
            ) -> None:
                try:
                    while not stopping.is_set():
                        data = os.urandom(2000)
                        acknowledged[registry.push_blob("alice/small", data)] = data
                        if len(acknowledged) >= goal:
                            reached.set()
                except (OSError, http.client.HTTPException):
                    return  # the server died

            pushers = [threading.Thread(target=push) for _ in range(3)]
            for pusher in pushers:
                pusher.start()
            assert reached.wait(60)
            server.kill()
            stopping.set()
            server.start()  # first: connections wait in the socket's queue, as before a service that systemd restarts
            for pusher in pushers:
                pusher.join(60)
                assert not pusher.is_alive()
            for digest, data in list(acknowledged.items()):
                assert alice.call("GET", f"/v2/alice/small/blobs/{digest}", expect=200).body == data


def test_a_client_that_vanishes_leaves_its_whole_batches(server: RegistryServer, alice: Registry) -> None:
    data = os.urandom(5 << 20)
    name = alice.repository()
    location = alice.start(name)
    token = alice.tokens[next(key for key in alice.tokens if name in key)]
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    sock.sendall(_head(server, location, token, f"Content-Length: {len(data)}"))
    sock.sendall(data[: 3 << 20])
    sock.close()

    def offset() -> int:
        last = int(alice.call("GET", location, expect=204).headers["range"].partition("-")[2])
        return last + 1 if last else 0

    wait_for(lambda: offset() >= 1 << 20, "whole batches are kept")
    start = offset()
    assert start <= 3 << 20
    alice.call("PATCH", location, data[start:], {"Content-Range": f"{start}-{len(data) - 1}"}, expect=202)
    alice.call("PUT", with_digest(location, digest_of(data)), b"", expect=201)
    assert alice.call("GET", f"/v2/{name}/blobs/{digest_of(data)}", expect=200).body == data
