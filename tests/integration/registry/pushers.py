"""Clients that push blobs as the usual ones do, and begin a failed push again as those do."""

from __future__ import annotations

import http.client
import os
import random
import threading
from typing import Self

from tests.conformance.distribution.client import Registry, digest_of, with_digest
from tests.integration.controlplane.stores import wait_for
from tests.integration.registry.server import RegistryServer

ATTEMPTS = 5  # as docker push
CHUNK = 1 << 20


class Refused(Exception):
    """An answer that a client tries again after: 5xx, or 404 and 416 of an upload."""


class Pushers:
    """`acknowledged` maps (repository, digest) to the bytes, `failed` says what gave up, `cut` counts attempts that broke off."""

    def __init__(self, server: RegistryServer, threads: int, sizes: tuple[int, ...], limit: int = 0) -> None:
        self.server, self.sizes, self.limit = server, sizes, limit
        self.acknowledged: dict[tuple[str, str], bytes] = {}
        self.failed: list[str] = []
        self.retries = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pause = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def wait_for(self, more: int) -> None:
        goal = len(self.acknowledged) + more
        wait_for(lambda: len(self.acknowledged) >= goal or self.failed, f"{more} more pushes")

    def _run(self, number: int) -> None:
        rand = random.Random(number)
        name = f"alice/load-{number}"
        while not self._stop.is_set():
            data = os.urandom(rand.choice(self.sizes))
            self._push(name, data, rand)

    def _push(self, name: str, data: bytes, rand: random.Random) -> None:
        reasons = []
        for _ in range(ATTEMPTS):
            try:
                self._once(name, data, rand)
            except (OSError, http.client.HTTPException, Refused) as error:
                reasons.append(f"{type(error).__name__}: {error}")
                with self._lock:
                    self.retries += 1
                with self._pause:
                    self._pause.wait(0.5)  # clients wait between attempts
                continue
            with self._lock:
                self.acknowledged[name, digest_of(data)] = data
            return
        self.failed.append(f"{name} {len(data)}: {reasons}")

    def _once(self, name: str, data: bytes, rand: random.Random) -> None:
        registry = Registry(self.server.url, "alice", self.server.password, prefix="alice")
        digest = digest_of(data)
        answer = registry.call("POST", f"/v2/{name}/blobs/uploads/")
        if answer.status != 202:
            raise Refused(f"POST {answer.status} {answer.body[:200]!r}")
        location = answer.headers["location"]
        if len(data) > CHUNK and rand.random() < 0.7:
            pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
            answer = registry.call("PATCH", location, pieces)
            if answer.status != 202:
                raise Refused(f"PATCH {answer.status} {answer.body[:200]!r}")
            data = b""
        answer = registry.call("PUT", with_digest(location, digest), data)
        if answer.status != 201:
            raise Refused(f"PUT {answer.status} {answer.body[:200]!r}")

    def check_all(self, registry: Registry) -> None:
        for (name, digest), data in list(self.acknowledged.items()):
            assert registry.call("GET", f"/v2/{name}/blobs/{digest}", expect=200).body == data
