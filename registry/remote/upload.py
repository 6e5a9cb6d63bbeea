"""Pushing a blob: looked for first, mounted where possible, else sent in chunks that go on where a connection broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx

from registry.remote.client import RegistryClient, pull_scope, push_scope
from registry.remote.errors import RemoteAway, RemoteBroken, RemoteUnknown
from registry.remote.session import ATTEMPTS, BACKOFF

CHUNK = 32 << 20  # bytes of one PATCH
Read = Callable[[int, int], bytes]  # (offset, count) -> at most count bytes, none at the end


def push_blob(client: RegistryClient, name: str, digest: str, size: int, read: Read, source: str = "") -> str:
    """Puts a blob into `name`; says how: "there", "mounted" from `source` (a repository of that registry), or "sent"."""
    if client.head_blob(name, digest, pushing=True) is not None:
        return "there"
    scopes = [push_scope(name), pull_scope(source)] if source else [push_scope(name)]
    query = f"?mount={quote(digest)}&from={quote(source, safe='')}" if source else ""
    with client.session.request("POST", f"/v2/{name}/blobs/uploads/{query}", scopes, good=(201, 202)) as answer:
        if answer.status_code == 201:
            return "mounted"
        location = _location(client, answer)
    _Upload(client, name, size, read, location).send(digest)
    return "sent"


def _location(client: RegistryClient, answer: httpx.Response) -> str:
    location: str = answer.headers.get("location", "")
    if not location:
        raise RemoteBroken(f"{client.remote.host} began an upload without saying where")
    return client.session.url(location)


class _Upload:
    def __init__(self, client: RegistryClient, name: str, size: int, read: Read, location: str) -> None:
        self.client, self.name, self.size, self.read, self.location = client, name, size, read, location
        self.scopes = [push_scope(name)]
        self.offset = 0

    def send(self, digest: str) -> None:
        failures = highest = 0
        while self.offset < self.size:
            try:
                self._chunk()
            except RemoteAway:
                if failures + 1 >= ATTEMPTS:
                    raise
                self.client.wait(BACKOFF * 2**failures)
                self._ask()
            # An upload that was lost begins anew: only what was never reached before is progress.
            failures = 0 if self.offset > highest else failures + 1
            highest = max(highest, self.offset)
            if failures >= ATTEMPTS:
                raise RemoteBroken(f"{self.client.remote.host} takes no byte of the blob after the first {self.offset}")
        self._finish(digest)

    def _chunk(self) -> None:
        end = min(self.size, self.offset + CHUNK)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self.offset}-{end - 1}",
            "Content-Length": str(end - self.offset),
        }
        start = self.offset
        with self.client.session.request(
            "PATCH",
            self.location,
            self.scopes,
            headers=headers,
            body=lambda: self._pieces(start, end),
            good=(202, 204, 416),
            attempts=1,
        ) as answer:
            status = answer.status_code
            self.location = _location(self.client, answer) if status != 416 else self.location
        if status == 416:
            self._ask()
        else:
            self.offset = end

    def _pieces(self, offset: int, end: int) -> Iterator[bytes]:
        while offset < end:
            piece = self.read(offset, min(self.client.pace.piece, end - offset))
            if not piece:
                raise RemoteBroken(f"the blob ends at byte {offset}, its size says {self.size}")
            self.client.pace.take(len(piece))
            offset += len(piece)
            yield piece

    def _ask(self) -> None:
        """Where does the other side say that the upload ends? One that it has lost begins anew."""
        try:
            with self.client.session.request("GET", self.location, self.scopes, good=(204, 202, 200)) as answer:
                last = answer.headers.get("range", "").removeprefix("bytes=").rpartition("-")[2]
                self.offset = min(int(last) + 1, self.size) if last.isdecimal() and int(last) > 0 else 0
                if answer.headers.get("location"):
                    self.location = _location(self.client, answer)
        except RemoteUnknown:
            with self.client.session.request("POST", f"/v2/{self.name}/blobs/uploads/", self.scopes, good=(202,)) as answer:
                self.location, self.offset = _location(self.client, answer), 0

    def _finish(self, digest: str) -> None:
        joint = "&" if "?" in self.location else "?"
        try:
            with self.client.session.request(
                "PUT",
                f"{self.location}{joint}digest={quote(digest)}",
                self.scopes,
                headers={"Content-Length": "0", "Content-Type": "application/octet-stream"},
                good=(201, 204),
                attempts=1,
            ):
                return
        except (RemoteAway, RemoteUnknown):
            # The answer was lost, not the blob?
            if self.client.head_blob(self.name, digest, pushing=True) is None:
                raise
