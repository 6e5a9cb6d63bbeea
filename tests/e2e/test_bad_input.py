"""What no honest client sends, through the whole stack: refused in words, and everything else goes on."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import images
from tests.e2e.fleet import CONTROL, ControlPlane, Host, fleet, wait_for
from tests.e2e.ledger import processes

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hosts are namespaces"),
]
World = tuple[ControlPlane, Host]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One node, on which a good service runs: no bad one may disturb it."""
    with fleet("n1") as (control, (host,)):
        control.push(images.web(tmp_path_factory.mktemp("image") / "web"), "admin/web:1")
        control.create("good", "admin/web:1")
        wait_for(lambda: control.whole("good", 1), "a running task", 60)
        before = processes([host])
        yield control, host
        assert control.whole("good", 1)
        assert before <= processes([host])


def tar_of(*entries: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return buffer.getvalue()


def file(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = 1
    return entry


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


BAD_LAYERS = {
    "noise": b"this is no tar archive at all" * 100,
    "climbing": tar_of(file("../../../tmp/wharf-escaped")),
    "link": tar_of(link("out", "/tmp"), file("out/wharf-escaped")),
    "cut": tar_of(file("a"))[:700],
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_a_bad_layer_fails_its_task_with_the_reason(world: World, tmp_path: Path, name: str) -> None:
    """The registry stores what it is given; the node looks inside, and no file of it lands outside of the image."""
    control, host = world
    layout = images.layout_of(tmp_path / "image", BAD_LAYERS[name], command=["true"])
    service = f"bad-{name}"
    control.push(layout, f"admin/{service}:1")
    spec = {"name": service, "restart": {"condition": "none"}, "container": {"image": f"admin/{service}:1"}}
    control.call("POST", "services", json={"spec": spec})
    row = control.service(service)

    def ended() -> dict[str, Any] | None:
        tasks = control.call("GET", f"services/{row['id']}/ps")
        return next((task for task in tasks if task["observed"] in {"failed", "rejected"}), None)

    task = wait_for(ended, "the task is refused", 60)
    assert "of the image is refused: " in task["error"]
    assert host.attempt("test", "-e", "/tmp/wharf-escaped").returncode == 1
    control.call("DELETE", f"services/{row['id']}", headers={"If-Match": f'"v{control.service(service)["version"]}"'})


def registry(control: ControlPlane, method: str, path: str, **options: Any) -> httpx.Response:
    options.setdefault("auth", ("admin", control.password))
    return httpx.request(method, f"{control.url}/v2/{path}", verify=False, timeout=30, **options)


OCI = "application/vnd.oci.image.manifest.v1+json"
ABSENT = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}
BAD_MANIFESTS = {
    "noise": (b"{", "MANIFEST_INVALID"),
    "list": (b"[]", "MANIFEST_INVALID"),
    "deep": (b"[" * 100_000, "MANIFEST_INVALID"),
    "half a character": (
        json.dumps(
            {"schemaVersion": 2, "mediaType": OCI, "config": ABSENT, "layers": [], "annotations": {"a": "\ud800"}}
        ).encode(),
        "MANIFEST_INVALID",
    ),
    "no version": (json.dumps({"mediaType": OCI, "config": ABSENT, "layers": []}).encode(), "MANIFEST_INVALID"),
    "bad digest": (
        json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": {**ABSENT, "digest": "sha256:xyz"}, "layers": []}).encode(),
        "MANIFEST_INVALID",
    ),
    "absent": (
        json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": ABSENT, "layers": []}).encode(),
        "MANIFEST_BLOB_UNKNOWN",
    ),
    "huge": (b" " * (5 << 20), "SIZE_INVALID"),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused_with_a_code_and_a_sentence(world: World, name: str) -> None:
    control, _ = world
    body, code = BAD_MANIFESTS[name]
    answer = registry(control, "PUT", "admin/web/manifests/bad", content=body, headers={"Content-Type": OCI})
    assert 400 <= answer.status_code < 500, answer.text
    (error,) = answer.json()["errors"]
    assert error["code"] == code
    assert len(error["message"]) > 20
    assert registry(control, "GET", "admin/web/manifests/bad").status_code == 404


def test_a_blob_that_is_not_what_it_is_called_is_refused(world: World) -> None:
    control, _ = world
    location = registry(control, "POST", "admin/web/blobs/uploads/").headers["location"].removeprefix("/v2/")
    wrong = hashlib.sha256(b"other").hexdigest()
    answer = registry(control, "PUT", f"{location}?digest=sha256:{wrong}", content=gzip.compress(b"data"))
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"
    assert registry(control, "HEAD", f"admin/web/blobs/sha256:{wrong}").status_code == 404


@pytest.mark.parametrize("token", ["x", "wharf_unknown_" + "a" * 43, "eyJhbGciOiJub25lIn0.e30.", "\x80"])
def test_a_bad_token_opens_nothing(world: World, token: str) -> None:
    control, _ = world
    headers = {b"Authorization": b"Bearer " + token.encode("latin-1")}
    rest = httpx.get(f"{control.url}/api/v1/nodes", headers=headers, verify=False, timeout=30)
    assert rest.status_code == 401
    assert rest.headers["content-type"] == "application/problem+json"
    assert rest.json()["detail"]
    answer = registry(control, "GET", "admin/web/tags/list", headers=headers, auth=None)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer realm=")
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize("token", ["", "x", "WHARF-1-2-3", "../../etc/passwd"])
def test_a_bad_join_token_is_told_on_the_node(world: World, token: str) -> None:
    _, host = world
    home = str(host.home / "other")
    result = host.attempt(sys.executable, "-m", "agent", "--home", home, "join", "--token", token, f"{CONTROL}:8443")
    assert result.returncode != 0
    assert "token" in result.stderr
    assert "Traceback" not in result.stderr


BODIES = {
    "cut": b'{"spec": ',
    "list": b"[]",
    "deep": b'{"spec": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not a number": b'{"spec": {"name": "a", "replicas": NaN, "container": {"image": "admin/web:1"}}}',
    "no text": b"\xff\xfe\x00",
    "nothing": b"",
    "nul": b'{"spec": {"name": "a\\u0000b", "container": {"image": "admin/web:1"}}}',
    "surrogate": b'{"spec": {"name": "a", "labels": {"a": "\\ud800"}, "container": {"image": "admin/web:1"}}}',
    "wrong kind": b'{"spec": {"name": "a", "replicas": "many", "container": {"image": "admin/web:1"}}}',
    "unknown field": b'{"spec": {"name": "a", "colour": 1, "container": {"image": "admin/web:1"}}}',
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_json_is_answered_with_a_problem(world: World, name: str) -> None:
    control, _ = world
    headers = {"Authorization": f"Bearer {control.token}", "Content-Type": "application/json"}
    answer = httpx.post(f"{control.url}/api/v1/services", content=BODIES[name], headers=headers, verify=False, timeout=30)
    assert answer.status_code in {400, 413, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"]
    assert problem["detail"]
    assert not control.call("GET", "services", params={"name": "a"})
