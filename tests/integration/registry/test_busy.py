"""More than can wait: 429 in the protocol's shape, with when to come again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry.v2 import groups, threads
from registry.v2.app import application

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v2/a/b/manifests/v1"), ("HEAD", "/v2/a/b/manifests/v1"), ("POST", "/v2/a/b/blobs/uploads/")]
)
async def test_busy(monkeypatch: pytest.MonkeyPatch, method: str, path: str) -> None:
    monkeypatch.setattr(threads, "BACKLOG", -1)
    monkeypatch.setattr(groups, "BACKLOG", -1)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: Any = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"registry"), (b"content-length", b"0")],
    }
    await application(scope, receive, send)
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 429
    assert int(headers[b"retry-after"]) >= 1
    if method != "HEAD":
        assert [entry["code"] for entry in json.loads(sent[1]["body"])["errors"]] == ["TOOMANYREQUESTS"]
