"""The ASGI application: mounts by prefix, Django behind, websockets of the same origin only."""

from __future__ import annotations

import pytest
from asgiref.testing import ApplicationCommunicator

from controlplane.asgi import Application

pytestmark = pytest.mark.django_db(transaction=True)


def http(path: str) -> dict:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "https", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1), "server": ("localhost", 443),
    }  # fmt: skip


async def raw(scope, receive, send):
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def ask(application, path: str) -> int:
    communicator = ApplicationCommunicator(application, http(path))
    await communicator.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await communicator.receive_output(10)
    while (await communicator.receive_output(10)).get("more_body"):
        pass
    await communicator.wait()
    return start["status"]


async def test_mounts_take_their_prefix_and_nothing_beside():
    application = Application()
    application.mounts = [("/v2", raw)]
    assert [await ask(application, path) for path in ("/v2", "/v2/", "/v2/x/y")] == [299, 299, 299]
    assert await ask(application, "/v2x") == 404
    assert await ask(application, "/api/v1/health") == 200


async def test_the_event_stream_flows_through_the_whole_stack():
    from asgiref.sync import sync_to_async

    from controlplane.api.actor import SYSTEM
    from controlplane.users import actions

    def prepare() -> str:
        user = actions.create_user(SYSTEM, "root", None, is_admin=True)
        return actions.create_token(SYSTEM, user, "t")[1]

    scope = http("/api/v1/events")
    scope["query_string"] = b"since=0"
    scope["headers"] += [
        (b"authorization", b"Bearer " + (await sync_to_async(prepare)()).encode()),
        (b"accept", b"text/event-stream"),
    ]
    communicator = ApplicationCommunicator(Application(), scope)
    await communicator.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await communicator.receive_output(20)
    assert (start["status"], dict(start["headers"])[b"Content-Type"]) == (200, b"text/event-stream")
    text = b""
    while text.count(b"event: ") < 2:
        text += (await communicator.receive_output(20))["body"]
    await sync_to_async(actions.create_user)(SYSTEM, "later", None)
    while b'"later"' not in text:
        text += (await communicator.receive_output(20))["body"]
    await communicator.send_input({"type": "http.disconnect"})
    await communicator.wait(20)
    assert text.count(b"event: user.created") == 2


async def test_foreign_pages_open_no_socket():
    application = Application()
    entered = []

    async def inside(scope, receive, send):
        entered.append(scope["path"])
        await send({"type": "websocket.close"})

    application.sockets.application = inside
    base = {"type": "websocket", "path": "/live", "query_string": b"", "subprotocols": []}
    for origin in (b"https://evil.example", b"", b"null", b"https://console.example.evil", b"http://console.example:8443.evil"):
        headers = [(b"host", b"console.example:8443"), (b"origin", origin)]
        communicator = ApplicationCommunicator(application, {**base, "headers": headers})
        await communicator.send_input({"type": "websocket.connect"})
        assert (await communicator.receive_output(10))["type"] == "websocket.close"
        await communicator.wait()
    assert entered == []
    communicator = ApplicationCommunicator(
        application, {**base, "headers": [(b"host", b"console.example:8443"), (b"origin", b"https://console.example:8443")]}
    )
    await communicator.send_input({"type": "websocket.connect"})
    await communicator.receive_output(10)
    await communicator.wait()
    assert entered == ["/live"]


async def test_lifespan_is_answered():
    communicator = ApplicationCommunicator(Application(), {"type": "lifespan", "asgi": {"version": "3.0"}})
    await communicator.send_input({"type": "lifespan.startup"})
    assert (await communicator.receive_output(10))["type"] == "lifespan.startup.complete"
    await communicator.send_input({"type": "lifespan.shutdown"})
    assert (await communicator.receive_output(10))["type"] == "lifespan.shutdown.complete"
