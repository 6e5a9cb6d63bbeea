"""The sandboxes of this node as records, one JSON file each in the run directory, and what follows from all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from agent.network import names, records
from agent.network.names import Book
from agent.network.records import Endpoint, PublishedPort, Sandbox


class Sandboxes(Mapping[str, Sandbox]):
    """By container id. Not locked: its owner is."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self._all = {sandbox.container_id: sandbox for sandbox in records.read_all(directory, Sandbox)}
        self._book: Book | None = None

    def __getitem__(self, container_id: str) -> Sandbox:
        return self._all[container_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def hold(self, sandbox: Sandbox) -> None:
        """Remember in memory only: a step between two records."""
        self._all[sandbox.container_id] = sandbox
        self._book = None

    def put(self, sandbox: Sandbox) -> None:
        self.hold(sandbox)
        records.note(self._path(sandbox.container_id), sandbox)

    def discard(self, container_id: str) -> None:
        self._all.pop(container_id, None)
        self._book = None
        records.unnote(self._path(container_id))

    def published(self) -> Iterator[PublishedPort]:
        for sandbox in self._all.values():
            yield from sandbox.ports

    def members(self, network_id: str) -> Iterator[tuple[str, Endpoint]]:
        """(container id, endpoint) of everything on a network."""
        for sandbox in self._all.values():
            for endpoint in sandbox.endpoints:
                if endpoint.network_id == network_id:
                    yield sandbox.container_id, endpoint

    def book(self) -> Book:
        if self._book is None:
            self._book = names.write(self._all.values())
        return self._book

    def _path(self, container_id: str) -> str:
        return os.path.join(self._directory, f"{container_id}.json")
