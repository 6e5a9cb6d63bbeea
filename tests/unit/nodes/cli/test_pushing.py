"""The pushing client against a registry that breaks the line."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.protocol.oci import Descriptor, Digest
from controlplane.cli.context import Context
from controlplane.cli.session import Failure, Session
from nodes.cli import pushing
from nodes.cli.layers import Blob, Part
from nodes.cli.pushing import Pusher, target

DATA = bytes(range(256)) * 2000


class Here(Session):
    @property
    def context(self) -> Context:
        return Context("https://registry.test:8443", "", "wharf_x_y", "alice")


class Registry:
    """Uploads as the distribution-spec has them; `cut` are the byte counts after which each PATCH breaks, -1: it does not."""

    def __init__(self, *cut: int) -> None:
        self.cut = list(cut)
        self.data = b""
        self.blobs: set[str] = set()
        self.asked: list[str] = []
        self.lose_put = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.method)
        headers = {
            "Location": "https://elsewhere.test/v2/web/blobs/uploads/1?state=a",
            "Range": f"0-{max(0, len(self.data) - 1)}",
        }
        if request.method == "HEAD":
            return httpx.Response(200 if request.url.path.rpartition("/")[2] in self.blobs else 404)
        assert request.url.host == "registry.test", "credentials leave for another host"
        if request.method == "POST":
            self.data = b""
            return httpx.Response(202, headers=headers)
        if request.method == "GET":
            return httpx.Response(204, headers=headers)
        if request.method == "PATCH":
            return self._patch(request, headers)
        self.blobs.add(str(Digest.of(self.data)))
        if self.lose_put:
            self.lose_put = False
            raise httpx.ReadError("reset by peer")
        return httpx.Response(201)

    def _patch(self, request: httpx.Request, headers: dict[str, str]) -> httpx.Response:
        first = int(request.headers["Content-Range"].partition("-")[0])
        if first != len(self.data):
            return httpx.Response(416, headers=headers)
        body = request.read()
        if self.cut and (count := self.cut.pop(0)) >= 0:
            self.data += body[:count]
            raise httpx.WriteError("broken pipe")
        self.data += body
        return httpx.Response(202, headers={**headers, "Range": f"0-{len(self.data) - 1}"})


@pytest.fixture
def blob(tmp_path: Path) -> Blob:
    (tmp_path / "blob").write_bytes(DATA)
    descriptor = Descriptor("application/x", Digest("sha256", hashlib.sha256(DATA).hexdigest()), len(DATA), {})
    return Blob(descriptor, Part(str(tmp_path / "blob"), 0, len(DATA)))


def pusher(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> tuple[Pusher, list[int]]:
    monkeypatch.setattr(pushing, "PAUSE", 0.0)
    heard: list[int] = []
    made = Pusher(Here(), "web", lambda _, count: heard.append(count))
    made.client = httpx.Client(base_url="https://registry.test:8443", transport=httpx.MockTransport(registry))
    return made, heard


@pytest.mark.parametrize("chunk", [64 << 20, 100_000])
@pytest.mark.parametrize("cut", [(), (1000,), (1000, 0, 5000, 99_999), (0, 0, 0), (-1, -1, 500, -1, 5)])
def test_an_upload_goes_on_where_the_line_broke(
    blob: Blob, monkeypatch: pytest.MonkeyPatch, chunk: int, cut: tuple[int, ...]
) -> None:
    monkeypatch.setattr(pushing, "CHUNK", chunk)
    registry = Registry(*cut)
    made, heard = pusher(registry, monkeypatch)
    made.push_blob(blob)
    assert registry.data == DATA
    assert registry.asked.count("POST") == 1, "never begun anew"
    assert sum(heard) == len(DATA)


def test_a_line_that_stays_broken_is_given_up(blob: Blob, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = pusher(Registry(*[0] * 20), monkeypatch)
    with pytest.raises(Failure, match="broken pipe") as caught:
        made.push_blob(blob)
    assert caught.value.exit_code == 5


def test_a_lost_answer_to_the_last_request_is_no_failure(blob: Blob, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    registry.lose_put = True
    made, _ = pusher(registry, monkeypatch)
    made.push_blob(blob)
    assert registry.blobs == {str(blob.descriptor.digest)}


def test_what_is_there_is_not_sent(blob: Blob, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    registry.blobs.add(str(blob.descriptor.digest))
    made, heard = pusher(registry, monkeypatch)
    made.push_blob(blob)
    assert registry.asked == ["HEAD"]
    assert heard == [len(DATA)]


def test_targets() -> None:
    session: Any = Here()
    assert str(target(session, "team/web")) == "team/web:latest"
    assert str(target(session, "registry.test:8443/team/web:1")) == "team/web:1"
    for text, why in (("docker.io/library/web", "another registry"), ("Team/Web", "not valid"), (f"a@sha256:{'0' * 64}", "tag")):
        with pytest.raises(Failure, match=why):
            target(session, text)
