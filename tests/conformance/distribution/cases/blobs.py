"""Blobs: every way of pushing, for both algorithms; ranges; mounts; cancelling; what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.conformance.distribution.case import case
from tests.conformance.distribution.client import Registry, digest_of, with_digest

OCTETS = {"Content-Type": "application/octet-stream"}
Push = Callable[[Registry, str, bytes, str], None]


def _pieces(data: bytes, count: int = 3) -> list[bytes]:
    step = max(1, -(-len(data) // count))
    return [data[start : start + step] for start in range(0, len(data), step)] or [b""]


def _patch(registry: Registry, location: str, first: int, data: bytes, expect: int = 202) -> str:
    headers = {**OCTETS, "Content-Range": f"{first}-{first + len(data) - 1}", "Content-Length": str(len(data))}
    answer = registry.call("PATCH", location, data, headers if data else OCTETS, expect=expect)
    if expect == 202:
        assert answer.headers["range"] == f"0-{max(0, first + len(data) - 1)}"
        return answer.headers["location"]
    return location


def post_only(registry: Registry, name: str, data: bytes, digest: str) -> None:
    answer = registry.call("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data, OCTETS, expect=(201, 202))
    if answer.status == 202:  # a fallback that the specification allows
        answer = registry.call("PUT", with_digest(answer.headers["location"], digest), data, OCTETS, expect=201)
    assert registry.call("GET", answer.headers["location"], expect=200).body == data


def post_put(registry: Registry, name: str, data: bytes, digest: str) -> None:
    location = registry.start(name, digest.partition(":")[0])
    answer = registry.call("PUT", with_digest(location, digest), data, OCTETS, expect=201)
    assert registry.call("GET", answer.headers["location"], expect=200).body == data


def chunked_single(registry: Registry, name: str, data: bytes, digest: str) -> None:
    location = _patch(registry, registry.start(name, digest.partition(":")[0]), 0, data)
    registry.call("PUT", with_digest(location, digest), b"", expect=201)


def chunked_multi(registry: Registry, name: str, data: bytes, digest: str) -> None:
    location, first = registry.start(name), 0  # without digest-algorithm: many clients never send it
    for piece in _pieces(data):
        location = _patch(registry, location, first, piece)
        first += len(piece)
        shown = registry.call("GET", location, expect=204)
        assert shown.headers["range"] == f"0-{max(0, first - 1)}"
    registry.call("PUT", with_digest(location, digest), b"", expect=201)


def chunked_multi_and_put_chunk(registry: Registry, name: str, data: bytes, digest: str) -> None:
    location, first = registry.start(name, digest.partition(":")[0]), 0
    *before, last = _pieces(data)
    for piece in before:
        location = _patch(registry, location, first, piece)
        first += len(piece)
    headers = {**OCTETS, "Content-Range": f"{first}-{first + len(last) - 1}"} if last else OCTETS
    registry.call("PUT", with_digest(location, digest), last, headers, expect=201)


def chunked_out_of_order(registry: Registry, name: str, data: bytes, digest: str) -> None:
    location, first = registry.start(name, digest.partition(":")[0]), 0
    pieces = _pieces(data)
    for piece in pieces:
        if piece and first:
            _patch(registry, location, 0, piece, expect=416)
        if piece:
            _patch(registry, location, first + 10, piece, expect=416)
        location = registry.call("GET", location, expect=204).headers["location"]
        location = _patch(registry, location, first, piece)
        first += len(piece)
    registry.call("PUT", with_digest(location, digest), b"", expect=201)


def out_of_order_put(registry: Registry, name: str, data: bytes, digest: str) -> None:
    location = registry.start(name, digest.partition(":")[0])
    *before, last = _pieces(data)
    first = 0
    for piece in before:
        location = _patch(registry, location, first, piece)
        first += len(piece)
    if last:
        wrong = {**OCTETS, "Content-Range": f"{first + 5}-{first + 4 + len(last)}"}
        registry.call("PUT", with_digest(location, digest), last, wrong, expect=416)
        shown = registry.call("GET", location, expect=204)
        assert shown.headers["range"] == f"0-{max(0, first - 1)}"
        location = shown.headers["location"]
    registry.call("PUT", with_digest(location, digest), last, OCTETS, expect=201)


def stream(registry: Registry, name: str, data: bytes, digest: str) -> None:
    location = registry.start(name)
    answer = registry.call("PATCH", location, _pieces(data, 7), expect=202)  # as dockerd: no type, no length, no range
    registry.call("PUT", with_digest(answer.headers["location"], digest), b"", expect=201)


PUSHES: tuple[Push, ...] = (
    post_only,
    post_put,
    chunked_single,
    chunked_multi,
    chunked_multi_and_put_chunk,
    chunked_out_of_order,
    out_of_order_put,
    stream,
)
_OUT_OF_ORDER = {chunked_out_of_order, out_of_order_put}


def _push_then_everything(registry: Registry, push: Push, data: bytes, algorithm: str) -> None:
    name, digest = registry.repository(), digest_of(data, algorithm)
    push(registry, name, data, digest)
    target = f"/v2/{name}/blobs/{digest}"
    head = registry.call("HEAD", target, expect=200)
    assert head.headers["content-length"] == str(len(data))
    assert head.headers["docker-content-digest"] == digest
    got = registry.call("GET", target, expect=200)
    assert got.body == data
    assert got.headers["docker-content-digest"] == digest
    registry.call("DELETE", target, expect=202)
    registry.call("HEAD", target, expect=404)
    assert registry.call("GET", target, expect=404).error_codes() == ["BLOB_UNKNOWN"]


@case("sha256 blobs", "push", *[push for push in PUSHES if push not in _OUT_OF_ORDER])
def push_sha256(registry: Registry, push: Push) -> None:
    _push_then_everything(registry, push, os.urandom(3067), "sha256")


@case("out of order", "push", *[push for push in PUSHES if push in _OUT_OF_ORDER])
def push_out_of_order(registry: Registry, push: Push) -> None:
    _push_then_everything(registry, push, os.urandom(3067), "sha256")


@case("sha512 blobs", "push", *PUSHES)
def push_sha512(registry: Registry, push: Push) -> None:
    _push_then_everything(registry, push, os.urandom(3067), "sha512")


@case("empty blobs", "zero bytes", *[push for push in PUSHES if push not in _OUT_OF_ORDER])
def push_empty(registry: Registry, push: Push) -> None:
    _push_then_everything(registry, push, b"", "sha256")


@case("empty blobs", "empty JSON", *[push for push in PUSHES if push not in _OUT_OF_ORDER])
def push_empty_json(registry: Registry, push: Push) -> None:
    _push_then_everything(registry, push, b"{}", "sha256")


@case("sha512 blobs", "zero bytes", *[push for push in PUSHES if push not in _OUT_OF_ORDER])
def push_empty_sha512(registry: Registry, push: Push) -> None:
    _push_then_everything(registry, push, b"", "sha512")


@case("sha512 blobs", "empty JSON", *[push for push in PUSHES if push not in _OUT_OF_ORDER])
def push_empty_json_sha512(registry: Registry, push: Push) -> None:
    _push_then_everything(registry, push, b"{}", "sha512")


@case("sha256 blobs", "several megabytes")
def push_large(registry: Registry) -> None:
    _push_then_everything(registry, stream, os.urandom(5 << 20), "sha256")
    _push_then_everything(registry, post_only, os.urandom(3 << 20), "sha256")


@case("missing", "blob", "sha256", "sha512")
def get_missing(registry: Registry, algorithm: str) -> None:
    name = registry.repository()
    registry.push_blob(name, b"something")
    digest = digest_of(os.urandom(8), algorithm)
    registry.call("HEAD", f"/v2/{name}/blobs/{digest}", expect=404)
    assert registry.call("GET", f"/v2/{name}/blobs/{digest}", expect=404).error_codes() == ["BLOB_UNKNOWN"]
    registry.call("DELETE", f"/v2/{name}/blobs/{digest}", expect=404)


@case("bad digest", "post only", "sha256", "sha512")
def bad_post(registry: Registry, algorithm: str) -> None:
    name, other = registry.repository(), digest_of(os.urandom(9), algorithm)
    answer = registry.call("POST", f"/v2/{name}/blobs/uploads/?digest={other}", b"bytes", OCTETS, expect=(400, 202))
    if answer.status == 202:
        answer = registry.call("PUT", with_digest(answer.headers["location"], other), b"bytes", OCTETS, expect=400)
    assert answer.error_codes() == ["DIGEST_INVALID"]
    registry.call("HEAD", f"/v2/{name}/blobs/{other}", expect=404)


@case("bad digest", "put", *[(way, kind) for way in ("put", "chunk", "stream", "put chunk") for kind in ("sha256", "sha512")])
def bad_put(registry: Registry, variant: tuple[str, str]) -> None:
    way, algorithm = variant
    name, other, data = registry.repository(), digest_of(os.urandom(9), algorithm), os.urandom(900)
    location, last = registry.start(name), b""
    if way == "put":
        last = data
    elif way == "stream":
        location = registry.call("PATCH", location, _pieces(data), expect=202).headers["location"]
    else:
        location = _patch(registry, location, 0, data[:600])
        location, last = (_patch(registry, location, 600, data[600:]), b"") if way == "chunk" else (location, data[600:])
    assert registry.call("PUT", with_digest(location, other), last, OCTETS, expect=400).error_codes() == ["DIGEST_INVALID"]
    registry.call("HEAD", f"/v2/{name}/blobs/{other}", expect=404)
    registry.call("HEAD", f"/v2/{name}/blobs/{digest_of(data, algorithm)}", expect=404)
    # What was dropped is no session any more, and the repository takes the right bytes as before.
    assert registry.call("GET", location, expect=404).error_codes() == ["BLOB_UPLOAD_UNKNOWN"]
    registry.push_blob(name, data, algorithm)


@case("bad digest", "malformed", "sha256:baddigeststring", "sha256:ABC", "md5:d41d8cd98f00b204e9800998ecf8427e")
def malformed(registry: Registry, text: str) -> None:
    name = registry.repository()
    location = registry.start(name)
    registry.call("PUT", with_digest(location, text), b"x", OCTETS, expect=400)
    registry.call("GET", f"/v2/{name}/blobs/{text}", expect=(400, 404))


_INSIDE = [(500, "1499", 500, 1499), (500, "", 500, 2047), (2000, "5000", 2000, 2047), ("", "500", 1548, 2047)]


@case("ranges", "inside", *_INSIDE)
def range_inside(registry: Registry, want: tuple[object, str, int, int]) -> None:
    name, data = registry.repository(), os.urandom(2048)
    target = f"/v2/{name}/blobs/{registry.push_blob(name, data)}"
    first, last, start, end = want
    answer = registry.call("GET", target, headers={"Range": f"bytes={first}-{last}"}, expect=206)
    assert answer.body == data[start : end + 1]
    assert answer.headers["content-range"] == f"bytes {start}-{end}/2048"
    assert answer.headers["content-length"] == str(end + 1 - start)


@case("ranges", "outside", "500-0", "5000-10000")
def range_outside(registry: Registry, text: str) -> None:
    name = registry.repository()
    target = f"/v2/{name}/blobs/{registry.push_blob(name, os.urandom(2048))}"
    registry.call("GET", target, headers={"Range": f"bytes={text}"}, expect=416)


@case(
    "sha512 blobs", "ranges", (500, "1499", 500, 1499), (500, "", 500, 2047), (2000, "5000", 2000, 2047), ("", "500", 1548, 2047)
)
def range_sha512(registry: Registry, want: tuple[object, str, int, int]) -> None:
    name, data = registry.repository(), os.urandom(2048)
    target = f"/v2/{name}/blobs/{registry.push_blob(name, data, 'sha512')}"
    first, last, start, end = want
    answer = registry.call("GET", target, headers={"Range": f"bytes={first}-{last}"}, expect=206)
    assert answer.body == data[start : end + 1]
    assert answer.headers["content-range"] == f"bytes {start}-{end}/2048"
    for text in ("500-0", "5000-10000"):
        registry.call("GET", target, headers={"Range": f"bytes={text}"}, expect=416)


@case("ranges", "of a large blob")
def range_large(registry: Registry) -> None:
    name, data = registry.repository(), os.urandom(3 << 20)
    target = f"/v2/{name}/blobs/{registry.push_blob(name, data)}"
    assert registry.call("GET", target, headers={"Range": "bytes=1000000-2999999"}, expect=206).body == data[1000000:3000000]


@case("mount", "from")
def mount(registry: Registry) -> None:
    source, target = registry.repository(), registry.repository()
    digest = registry.push_blob(source, b"shared bytes " + os.urandom(8))
    answer = registry.call("POST", f"/v2/{target}/blobs/uploads/?mount={digest}&from={source}", expect=201)
    registry.call("GET", answer.headers["location"], expect=200)
    registry.call("HEAD", f"/v2/{target}/blobs/{digest}", expect=200)


@case("mount", "anonymous")
def mount_anonymous(registry: Registry) -> None:
    source, target = registry.repository(), registry.repository()
    digest = registry.push_blob(source, os.urandom(40))
    answer = registry.call("POST", f"/v2/{target}/blobs/uploads/?mount={digest}", expect=(201, 202))
    if answer.status == 202:
        registry.call("GET", answer.headers["location"], expect=204)
    else:
        registry.call("HEAD", f"/v2/{target}/blobs/{digest}", expect=200)


@case("sha512 blobs", "mount", "from", "anonymous", "missing")
def mount_sha512(registry: Registry, way: str) -> None:
    source, target, data = registry.repository(), registry.repository(), os.urandom(40)
    digest = digest_of(data, "sha512") if way == "missing" else registry.push_blob(source, data, "sha512")
    query = f"mount={digest}" + ("" if way == "anonymous" else f"&from={source}")
    answer = registry.call("POST", f"/v2/{target}/blobs/uploads/?{query}", expect=202 if way == "missing" else 201)
    if way == "missing":
        answer = registry.call("PUT", with_digest(answer.headers["location"], digest), data, OCTETS, expect=201)
    assert registry.call("GET", answer.headers["location"], expect=200).body == data
    registry.call("HEAD", f"/v2/{target}/blobs/{digest}", expect=200)


@case("mount", "missing")
def mount_missing(registry: Registry) -> None:
    source, target, data = registry.repository(), registry.repository(), os.urandom(40)
    answer = registry.call("POST", f"/v2/{target}/blobs/uploads/?mount={digest_of(data)}&from={source}", expect=202)
    registry.call("PUT", with_digest(answer.headers["location"], digest_of(data)), data, OCTETS, expect=201)


@case("cancel", "post cancel")
def cancel(registry: Registry) -> None:
    location = _patch(registry, registry.start(registry.repository()), 0, b"half")
    registry.call("DELETE", location, expect=204)
    registry.call("GET", location, expect=404)
    assert registry.call("PATCH", location, b"more", OCTETS, expect=404).error_codes() == ["BLOB_UPLOAD_UNKNOWN"]
    registry.call("DELETE", location, expect=404)
