"""The client of other registries: against docker-registry, our own server, and servers that misbehave as a test says."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.remote.client import RegistryClient, referrers_tag
from registry.remote.errors import EgressRefused, RemoteAway, RemoteBroken, RemoteBusy, RemoteRefused
from registry.remote.pace import Pace
from registry.remote.session import Remote
from registry.remote.transport import Tls
from registry.remote.upload import CHUNK, push_blob
from tests.conformance.distribution.anchor import BINARY
from tests.conformance.distribution.client import Registry, digest_of
from tests.integration.controlplane.listening import Authority
from tests.integration.registry import world
from tests.integration.registry.scripted import Asked, Says, scripted
from tests.integration.registry.server import RegistryServer
from tests.integration.registry.upstream import Upstream, upstream

needs_peer = pytest.mark.skipif(BINARY is None, reason="this machine lacks Debian's docker-registry")


@pytest.fixture(autouse=True)
def _loopback(settings: Any) -> None:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]


@pytest.fixture(params=["plain", "tls"])
def peer(request: Any, tmp_path: Path) -> Iterator[tuple[Upstream, Tls]]:
    authority = Authority(tmp_path, "peer-ca") if request.param == "tls" else None
    with upstream(tmp_path, authority) as running:
        yield running, Tls(ca=authority.pem if authority else "")


def reader(data: bytes) -> Any:
    return lambda offset, count: data[offset : offset + count]


def client(url: str, tls: Tls | None = None, user: str = "", secret: str = "", **options: Any) -> RegistryClient:
    """One that never sleeps, unless `wait` says otherwise."""
    return RegistryClient(Remote(url, user, secret, tls or Tls()), **{"wait": lambda seconds: None, **options})


def push_image(to: RegistryClient, name: str, tag: str, layers: list[bytes]) -> str:
    for blob in (b"{}", *layers):
        push_blob(to, name, digest_of(blob), len(blob), reader(blob))
    raw = world.manifest_of(b"{}", layers)
    to.put_manifest(name, tag, raw, json.loads(raw)["mediaType"])
    return digest_of(raw)


def pull(source: RegistryClient, name: str, digest: str, start: int = 0) -> bytes:
    return b"".join(source.blob(name, digest, start))


@needs_peer
def test_everything_against_docker_registry(peer: tuple[Upstream, Tls]) -> None:
    running, tls = peer
    data = os.urandom((1 << 20) + 17)
    with client(running.url, tls) as remote:
        remote.ping()
        remote.may_push("team/app")
        assert remote.head_manifest("team/app", "v1") is None
        assert remote.get_manifest("team/app", "v1") is None
        assert list(remote.tags("team/app")) == []
        digest = push_image(remote, "team/app", "v1", [data])
        layer = digest_of(data)
        assert remote.head_manifest("team/app", "v1").digest == digest
        found = remote.get_manifest("team/app", "v1")
        assert (str(found.digest), digest_of(found.raw)) == (digest, digest)
        assert pull(remote, "team/app", layer) == data
        assert pull(remote, "team/app", layer, 1000) == data[1000:]
        assert push_blob(remote, "team/app", layer, len(data), reader(data)) == "there"
        assert push_blob(remote, "team/other", layer, len(data), reader(data), "team/app") == "mounted"
        assert remote.referrers("team/app", digest) == []
        assert remote.delete_manifest("team/app", digest)
        assert not remote.delete_manifest("team/app", digest)


@needs_peer
def test_a_certificate_that_does_not_verify(tmp_path: Path) -> None:
    with upstream(tmp_path, Authority(tmp_path, "peer-ca")) as running:
        other = Authority(tmp_path, "other-ca")
        for tls in (Tls(), Tls(ca=other.pem)):
            with client(running.url, tls) as remote, pytest.raises(RemoteAway, match="give its CA"):
                remote.ping()
        with client(running.url, Tls(verify=False)) as remote:
            remote.ping()
        with pytest.raises(EgressRefused, match="PEM"):
            client(running.url, Tls(ca="nonsense"))


@needs_peer
def test_blobs_of_any_size_take_constant_memory(tmp_path: Path) -> None:
    size = 3 * CHUNK // 2
    piece = os.urandom(1 << 20)

    def read(offset: int, count: int) -> bytes:
        start = offset % len(piece)
        return piece[start : start + count][: max(0, min(count, size - offset))]

    import hashlib

    whole = hashlib.sha256(piece * (size // len(piece)))
    digest = f"sha256:{whole.hexdigest()}"
    with upstream(tmp_path) as running, client(running.url) as remote:
        tracemalloc.start()
        try:
            assert push_blob(remote, "big/one", digest, size, read) == "sent"
            back = hashlib.sha256()
            for part in remote.blob("big/one", digest):
                back.update(part)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert back.hexdigest() == whole.hexdigest()
        assert peak < 12 << 20, f"{peak} bytes for a blob of {size}"


def test_our_own_server_with_tokens_referrers_and_mounts(server: RegistryServer) -> None:
    tls = Tls(ca=server.authority.pem)
    with client(f"https://{server.tls_host}", tls, "alice", server.password) as remote:
        remote.ping()
        digest = push_image(remote, "alice/outward", "v1", [b"layer"])
        assert push_blob(remote, "alice/elsewhere", digest_of(b"layer"), 5, reader(b"layer"), "alice/outward") == "mounted"
        kind = "application/vnd.oci.image.manifest.v1+json"
        names = []
        for number in range(3):
            document = json.loads(world.manifest_of(b"{}", []))
            document |= {"subject": {"mediaType": kind, "digest": digest, "size": 1}, "annotations": {"n": str(number)}}
            raw = json.dumps(document).encode()
            assert remote.put_manifest("alice/outward", digest_of(raw), raw, kind)
            names.append(digest_of(raw))
        assert sorted(item["digest"] for item in remote.referrers("alice/outward", digest)) == sorted(names)
        assert list(remote.tags("alice/outward")) == ["v1"]
    for user, secret, words in (
        ("alice", "wrong password", "credentials"),
        ("", "", "without a login"),
        ("charlie", server.password, "charlie"),
    ):
        with (
            client(f"https://{server.tls_host}", tls, user, secret) as remote,
            pytest.raises(RemoteRefused, match=words),
        ):
            remote.may_push("alice/outward")
    assert Registry(server.url, "alice", server.password).call("GET", f"/v2/alice/outward/manifests/{digest}", expect=200).body


# --- servers that say what a test wants -----------------------------------------------------------------------------------------


def test_a_refresh_token_is_posted_and_a_lost_token_asked_for_again() -> None:
    given: list[str] = []
    wanted = ["t0"]

    def answer(asked: Asked) -> Says:
        if asked.path.startswith("/token"):
            given.append(f"t{len(given)}")
            return Says(200, {}, json.dumps({"access_token": given[-1], "expires_in": 300}).encode())
        if asked.headers.get("authorization") != f"Bearer {wanted[0]}":
            return Says(401, {"WWW-Authenticate": f'Bearer realm="{site.url}/token",service="r",scope="repository:a/b:pull"'})
        return Says(200, {"Docker-Content-Digest": digest_of(b"x"), "Content-Type": "x/y"})

    with scripted(answer) as site, client(site.url, user="<token>", secret="refresh me") as remote:
        for _ in range(2):
            assert remote.head_manifest("a/b", "v1") is not None
        assert given == ["t0"], "a token is used as long as it is good"
        wanted[0] = "t1"
        assert remote.head_manifest("a/b", "v1") is not None
        assert given == ["t0", "t1"]
        posts = [item for item in site.asked if item.method == "POST"]
        assert b"grant_type=refresh_token" in posts[0].body
        assert b"refresh_token=refresh+me" in posts[0].body
        assert b"scope=repository%3Aa%2Fb%3Apull" in posts[0].body


def test_credentials_go_to_the_registry_and_its_realm_and_nowhere_else() -> None:
    with scripted(lambda asked: Says(200, {}, b"blob")) as elsewhere:

        def answer(asked: Asked) -> Says:
            if "authorization" not in asked.headers:
                return Says(401, {"WWW-Authenticate": 'Basic realm="r"'})
            return Says(307, {"Location": f"{elsewhere.url}/signed?key=1"})

        with scripted(answer) as site, client(site.url, user="bob", secret="hunter2hunter2") as remote:
            assert pull(remote, "a/b", digest_of(b"blob")) == b"blob"
        assert site.asked[-1].headers["authorization"].startswith("Basic ")
        assert "authorization" not in elsewhere.asked[0].headers


def test_a_redirect_inside_is_checked_like_any_request(settings: Any) -> None:
    with scripted(lambda asked: Says(200, {}, b"secret")) as inside:
        with scripted(lambda asked: Says(302, {"Location": f"{inside.url}/latest/meta-data"})) as site:
            settings.REGISTRY_EGRESS_ALLOW = [site.url.removeprefix("http://")]
            with client(site.url) as remote, pytest.raises(EgressRefused):
                pull(remote, "a/b", digest_of(b"x"))
        assert inside.asked == []


def test_a_redirect_and_a_realm_without_tls_are_refused_by_a_client_with_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    says = [Says(302, {"Location": "http://127.0.0.1:1/"}), Says(401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/"'})]
    for number, words in enumerate(("redirects from TLS", "token service")):
        with scripted(lambda asked, number=number: says[number], authority) as site:  # type: ignore[misc]  # a default
            remote = client(site.url, Tls(ca=authority.pem), "bob", "x" * 12)
            with remote, pytest.raises(RemoteBroken, match=words):
                pull(remote, "a/b", digest_of(b"x"))


def test_retries_wait_as_the_server_says() -> None:
    says = [Says(429, {"Retry-After": "7"}), Says(503), Says(200, {"Docker-Content-Digest": digest_of(b"")})]
    waits: list[float] = []
    with scripted(lambda asked: says.pop(0)) as site, client(site.url, wait=waits.append) as remote:
        assert remote.head_manifest("a/b", "v1") is not None
    assert waits == [7.0, 2.0]
    with scripted(lambda asked: Says(429, {"Retry-After": "3600"})) as site, client(site.url, wait=waits.append) as remote:
        with pytest.raises(RemoteBusy) as caught:
            remote.head_manifest("a/b", "v1")
        assert (caught.value.retry_after, len(site.asked)) == (3600.0, 1)


def test_a_download_that_breaks_goes_on_where_it_broke() -> None:
    data = os.urandom(300_000)

    def answer(asked: Asked) -> Says:
        start = int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        return Says(206 if start else 200, {}, data[start:], cut=100_000 if start < 200_000 else None)

    with scripted(answer) as site, client(site.url) as remote:
        assert pull(remote, "a/b", digest_of(data)) == data
        assert [item.headers.get("range") for item in site.asked] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_sends_it_all_again_and_one_that_never_gets_on_is_given_up() -> None:
    data = os.urandom(50_000)
    cuts: list[int | None] = [20_000, None]
    with scripted(lambda asked: Says(200, {}, data, cut=cuts.pop(0))) as site, client(site.url) as remote:
        assert pull(remote, "a/b", digest_of(data)) == data
    with scripted(lambda asked: Says(200, {}, data, cut=0)) as site, client(site.url) as remote:
        with pytest.raises(RemoteAway):
            pull(remote, "a/b", digest_of(data))
        assert len(site.asked) == 4


class Receiver:
    """A registry that takes uploads, and breaks or refuses when a test says so."""

    def __init__(self) -> None:
        self.data = b""
        self.trouble: list[Any] = []  # of each PATCH, in order: None, "break" or a number of bytes that were kept of it

    def __call__(self, asked: Asked) -> Says:
        if asked.method == "HEAD":
            return Says(404)
        if asked.method == "POST":
            self.data = b""
            return Says(202, {"Location": "/v2/a/b/blobs/uploads/1"})
        if asked.method == "GET":
            return Says(204, {"Range": f"0-{max(0, len(self.data) - 1)}", "Location": "/v2/a/b/blobs/uploads/1"})
        if asked.method == "PATCH":
            return self._patch(asked)
        assert asked.path.endswith(f"digest={digest_of(self.data)}".replace(":", "%3A")), asked.path
        return Says(201)

    def _patch(self, asked: Asked) -> Says:
        first = int(asked.headers["content-range"].partition("-")[0])
        if first != len(self.data):
            return Says(416, {"Range": f"0-{len(self.data) - 1}"})
        trouble = self.trouble.pop(0) if self.trouble else None
        self.data += asked.body if trouble is None else asked.body[:trouble]
        return Says(202, {"Location": "/v2/a/b/blobs/uploads/1"}) if trouble is None else Says(503)


def test_an_upload_that_breaks_goes_on_from_what_arrived() -> None:
    data = os.urandom(100_000)
    receiver = Receiver()
    receiver.trouble = [30_000, 0]
    with scripted(receiver) as site, client(site.url) as remote:
        assert push_blob(remote, "a/b", digest_of(data), len(data), reader(data)) == "sent"
        ranges = [item.headers["content-range"] for item in site.asked if item.method == "PATCH"]
    assert receiver.data == data
    assert ranges == ["0-99999", "30000-99999", "30000-99999"]


def test_an_upload_that_gets_nowhere_is_given_up() -> None:
    receiver = Receiver()
    receiver.trouble = [0] * 20
    with scripted(receiver) as site, client(site.url) as remote:
        with pytest.raises(RemoteAway):
            push_blob(remote, "a/b", digest_of(b"abc"), 3, reader(b"abc"))
        assert site.calls("PATCH") == ["/v2/a/b/blobs/uploads/1"] * 4


def test_pages_by_link_and_a_link_that_leads_in_a_circle() -> None:
    def answer(asked: Asked) -> Says:
        last = asked.path.rpartition("last=")[2] if "last=" in asked.path else ""
        tags = {"": ["a", "b"], "b": ["c"]}.get(last, [])
        following = {"": "/v2/x/y/tags/list?n=1000&last=b", "b": "/v2/x/y/tags/list?n=1000&last=b"}.get(last)
        links = {"Link": f'<{following}>; rel="next"'} if following else {}
        return Says(200, links, json.dumps({"name": "x/y", "tags": tags}).encode())

    with scripted(answer) as site, client(site.url) as remote:
        assert list(remote.tags("x/y")) == ["a", "b", "c"]


def test_referrers_by_the_old_tag_schema() -> None:
    digest = digest_of(b"subject")
    index = json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest_of(b"sig"), "mediaType": "m", "size": 3}]}).encode()

    def answer(asked: Asked) -> Says:
        if asked.path == f"/v2/x/y/manifests/{referrers_tag(digest)}":
            return Says(200, {"Content-Type": "application/vnd.oci.image.index.v1+json"}, index)
        return Says(404)

    with scripted(answer) as site, client(site.url) as remote:
        assert [item["digest"] for item in remote.referrers("x/y", digest)] == [digest_of(b"sig")]


def complaint(says: Says, ask: Any) -> str:
    """What the client says of a server that gives this answer."""
    with scripted(lambda asked: says) as site, client(site.url) as remote, pytest.raises(RemoteBroken) as caught:
        ask(remote)
    return caught.value.detail


def test_what_no_registry_may_answer() -> None:
    for says, words in (
        (Says(200, {"Docker-Content-Digest": digest_of(b"other")}, b"{}"), "do not hash"),
        (Says(200, {"Docker-Content-Digest": "md5:x"}, b"{}"), "names the digest"),
        (Says(200, {}, b"x" * ((4 << 20) + 1)), "more than"),
    ):
        assert words in complaint(says, lambda remote: remote.get_manifest("a/b", "v1"))
    for body in (b"[", b"[]", b'{"tags": 3}', b"[" * 100_000):
        assert complaint(Says(200, {}, body), lambda remote: list(remote.tags("a/b")))


def test_a_speed_limit_is_kept() -> None:
    """By a clock of our own: 1 MB at 100 kB/s takes 10 seconds, less the quarter second that the bucket holds."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(100, wait, lambda: now[0])
    data = os.urandom(1_000_000)
    with scripted(lambda asked: Says(200, {}, data)) as site, client(site.url, pace=pace) as remote:
        assert pull(remote, "a/b", digest_of(data)) == data
    assert 9.5 <= now[0] <= 10.01
