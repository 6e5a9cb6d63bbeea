"""A proxied namespace over HTTP, with docker-registry as the other registry: killed between pulls and in the middle of one."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.remote.client import RegistryClient, referrers_tag
from registry.remote.session import Remote
from registry.remote.upload import push_blob
from tests.conformance.distribution.anchor import BINARY
from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry, digest_of
from tests.conformance.distribution.content import image
from tests.integration.controlplane.stores import wait_for
from tests.integration.registry import world
from tests.integration.registry.server import RegistryServer, registry_server
from tests.integration.registry.test_remote_client import push_image, reader
from tests.integration.registry.test_tokens import basic, bearer, get_token
from tests.integration.registry.upstream import Upstream, upstream

pytestmark = pytest.mark.skipif(BINARY is None, reason="this machine lacks Debian's docker-registry")
KIND = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    settings = {"WHARF_REGISTRY_EGRESS_ALLOW": "127.0.0.1"}
    with registry_server(tmp_path_factory.mktemp("registry"), settings=settings) as running:
        yield running
        assert "defect" not in running.log(), running.log()


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Upstream]:
    with upstream(tmp_path) as running:
        yield running


@pytest.fixture
def there(peer: Upstream, settings: Any) -> Iterator[RegistryClient]:
    settings.REGISTRY_EGRESS_ALLOW = ["127.0.0.1"]
    with RegistryClient(Remote(peer.url)) as client:
        yield client


def proxy(server: RegistryServer, namespace: str, url: str, **more: Any) -> None:
    """`fresh` is 0: every pull by tag asks."""
    options = {"namespace": namespace, "url": url, "fresh": 0, "prefix": "team", **more}
    server.python(
        "import django; django.setup()\n"
        "from controlplane.api.actor import SYSTEM\n"
        "from registry.actions.proxies import create_proxy\n"
        f"create_proxy(SYSTEM, **{options!r})\n"
    )


def eventually(client: Registry, path: str, status: int) -> Any:
    """A process looks every two seconds which namespaces are proxied."""
    answers: list[Any] = []

    def asked() -> bool:
        answers.append(client.call("GET", path))
        return bool(answers[-1].status == status)

    wait_for(asked, f"{path} answers {status}", 20)
    return answers[-1]


def admin(server: RegistryServer) -> Registry:
    return Registry(server.url, "admin", server.password)


def test_what_was_pulled_is_served_while_the_other_registry_is_away(
    server: RegistryServer, peer: Upstream, there: RegistryClient
) -> None:
    layer = os.urandom(200_000)
    digest = push_image(there, "team/app", "v1", [layer])
    push_image(there, "team/app", "v2", [b"never pulled"])
    proxy(server, "away", peer.url)
    root = admin(server)
    got = eventually(root, "/v2/away/app/manifests/v1", 200)
    assert (got.headers["docker-content-digest"], digest_of(got.body)) == (digest, digest)
    assert root.call("GET", f"/v2/away/app/blobs/{digest_of(layer)}", expect=200).body == layer
    root.call("GET", "/v2/away/app/manifests/none", expect=404)
    root.call("GET", "/v2/away/nothing/manifests/v1", expect=404)
    moved = push_image(there, "team/app", "v1", [b"moved"])
    assert root.call("GET", "/v2/away/app/manifests/v1", expect=200).headers["docker-content-digest"] == moved
    for blob in (b"{}", b"moved"):  # the image is kept when all its blobs have come
        assert root.call("GET", f"/v2/away/app/blobs/{digest_of(blob)}", expect=200).body == blob
    peer.kill()
    for _ in range(2):
        assert root.call("GET", "/v2/away/app/manifests/v1", expect=200).headers["docker-content-digest"] == moved
    assert root.call("GET", f"/v2/away/app/manifests/{digest}", expect=200).status == 200
    assert root.call("GET", f"/v2/away/app/blobs/{digest_of(b'moved')}", expect=200).body == b"moved"
    refused = root.call("GET", "/v2/away/app/manifests/v2", expect=503)
    assert "cannot be reached" in refused.json()["errors"][0]["message"]
    peer.start()
    assert root.call("GET", "/v2/away/app/manifests/v2", expect=200).status == 200


def test_rights_are_those_of_every_repository_and_nobody_pushes(
    server: RegistryServer, peer: Upstream, there: RegistryClient
) -> None:
    push_image(there, "team/app", "v1", [b"layer"])
    proxy(server, "closed", peer.url)
    proxy(server, "open", peer.url, visibility="public")
    root = admin(server)
    nobody = Registry(server.url)
    charlie = Registry(server.url, "charlie", server.password)
    eventually(nobody, "/v2/open/app/manifests/v1", 200)
    charlie.call("GET", "/v2/closed/app/manifests/v1", expect=401)
    nobody.call("GET", "/v2/closed/app/manifests/v1", expect=401)
    assert '"closed/app"' not in server.python(
        "import django; django.setup()\nfrom registry.models import Repository\n"
        "import json; print(json.dumps(list(Repository.objects.values_list('full_name', flat=True))))"
    ), "who may not pull makes nothing here"
    root.call("GET", "/v2/closed/app/manifests/v1", expect=200)
    charlie.call("GET", "/v2/closed/app/manifests/v1", expect=401)
    alice = Registry(server.url, "alice", server.password)
    alice.call("POST", "/v2/open/app/blobs/uploads/", expect=401)


def test_a_client_that_takes_us_for_a_mirror_names_the_other_registry(
    server: RegistryServer, peer: Upstream, there: RegistryClient
) -> None:
    layer = os.urandom(1000)
    digest = push_image(there, "team/mirrored", "v1", [layer])
    proxy(server, "mirrored", peer.url)
    host = peer.url.partition("://")[2]
    root, charlie = admin(server), Registry(server.url, "charlie", server.password)
    got = eventually(root, f"/v2/team/mirrored/manifests/v1?ns={host}", 200)
    assert (got.headers["docker-content-digest"], got.headers["oci-namespace"]) == (digest, host)
    root.call("HEAD", f"/v2/team/mirrored/manifests/{digest}?ns={host}", expect=200)
    found = root.call("GET", f"/v2/team/mirrored/blobs/{digest_of(layer)}?ns={host}", expect=200)
    assert (found.body, found.headers["oci-namespace"]) == (layer, host)
    assert root.call("GET", "/v2/mirrored/mirrored/manifests/v1", expect=200).body == got.body, "kept as every pull is"
    assert root.call("GET", f"/v2/mirrored/mirrored/manifests/v1?ns={host}", expect=200).body == got.body, "with our name, too"

    moved = push_image(there, "team/mirrored", "v1", [b"moved"])
    again = root.call("GET", f"/v2/team/mirrored/manifests/v1?ns={host}", expect=200)
    assert again.headers["docker-content-digest"] == moved, "the other registry is asked each time"
    push_image(there, "team/mirrored", "v2", [b"second"])
    root.call("GET", f"/v2/team/mirrored/manifests/v2?ns={host}", expect=200)
    tags = f"/v2/mirrored/mirrored/tags/list?ns={host}"
    wait_for(lambda: root.call("GET", tags).json()["tags"] == ["v1", "v2"], "both images are whole", 20)
    listed = root.call("GET", f"/v2/team/mirrored/tags/list?n=1&ns={host}", expect=200)
    assert listed.json() == {"name": "team/mirrored", "tags": ["v1"]}
    following = listed.headers["link"].partition("<")[2].partition(">")[0]
    assert root.call("GET", following, expect=200).json() == {"name": "team/mirrored", "tags": ["v2"]}
    assert root.call("GET", f"/v2/team/mirrored/referrers/{digest}?ns={host}", expect=200).headers["oci-namespace"] == host

    missing = root.call("GET", f"/v2/team/mirrored/manifests/none?ns={host}", expect=404)
    assert (missing.error_codes(), missing.headers["oci-namespace"]) == (["MANIFEST_UNKNOWN"], host)
    for target in (
        f"team/mirrored/manifests/v1?ns={host}0",
        f"elsewhere/x/manifests/v1?ns={host}",
        "team/x/blobs/y?ns=a%0d%0ab:c",
    ):
        refused = root.call("GET", f"/v2/{target}", expect=404)
        assert refused.error_codes() == ["NAME_UNKNOWN"]
        assert "oci-namespace" not in refused.headers
        assert "no proxied namespace" in refused.json()["errors"][0]["message"]
    denied = charlie.call("GET", f"/v2/team/mirrored/manifests/v1?ns={host}", expect=401)
    assert 'scope="repository:mirrored/mirrored:pull"' in denied.headers["www-authenticate"], "rights are those of our repository"


def test_our_own_name_as_the_registry_is_no_proxy(server: RegistryServer) -> None:
    alice = Registry(server.url, "alice", server.password, prefix="alice")
    name, document = alice.repository(), image()
    push(alice, name, document, "v1")
    host, path = server.url.partition("://")[2], f"/v2/{name}/manifests/v1"
    headers = bearer(get_token(server, [("scope", f"repository:{name}:pull")], basic("alice", server.password)))
    links = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=30) for _ in range(2)]

    def ask(link: http.client.HTTPConnection, target: str, called: str) -> tuple[int, str | None, bool]:
        link.request("GET", target, None, {**headers, "Host": called})
        answer = link.getresponse()
        return answer.status, answer.headers.get("oci-namespace"), answer.read() == document.raw

    try:
        for _ in range(3):
            assert ask(links[0], f"{path}?ns={host}", host) == (200, host, True)
            # Nothing is given from memory to who reaches us by another name, and has answers from there.
            assert ask(links[1], path, "other.example.org") == (200, None, True)
            assert ask(links[1], f"{path}?ns={host}", "other.example.org") == (404, None, False)
    finally:
        for link in links:
            link.close()


def test_an_index_comes_without_the_children_nobody_asks_for(
    server: RegistryServer, peer: Upstream, there: RegistryClient
) -> None:
    children = [push_image(there, "team/multi", f"c{number}", [os.urandom(1000)]) for number in range(2)]
    entries = [{"mediaType": KIND, "digest": digest, "size": 1} for digest in children]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    there.put_manifest("team/multi", "all", raw, INDEX)
    proxy(server, "multi", peer.url)
    root = admin(server)
    assert eventually(root, "/v2/multi/multi/manifests/all", 200).body == raw
    count = (
        "import django; django.setup()\n"
        "from registry.models import Manifest\n"
        "print(Manifest.objects.filter(repository__full_name='multi/multi').count())"
    )
    assert server.python(count) == "1\n"
    root.call("GET", f"/v2/multi/multi/manifests/{children[1]}", expect=200)
    wait_for(lambda: server.python(count) == "2\n", "the child is kept when its blobs are here", 20)


def test_referrers_are_those_of_the_other_registry_and_come_when_they_are_asked_for(
    server: RegistryServer, peer: Upstream, there: RegistryClient
) -> None:
    """docker-registry has no referrers API: its clients keep them in an index by the old tag schema."""
    subject = push_image(there, "team/signed", "v1", [b"program"])
    described = {"mediaType": KIND, "digest": subject, "size": 7}
    attached = {}
    for kind in ("application/vnd.example.sbom+json", "application/vnd.example.signature"):
        push_blob(there, "team/signed", digest_of(kind.encode()), len(kind), reader(kind.encode()))
        body = json.loads(world.manifest_of(b"{}", [kind.encode()])) | {"subject": described, "artifactType": kind}
        raw = json.dumps(body).encode()
        there.put_manifest("team/signed", digest_of(raw), raw, KIND)
        notes = {"org.example.kind": kind}
        entry = {"mediaType": KIND, "digest": digest_of(raw), "size": len(raw), "artifactType": kind, "annotations": notes}
        attached[kind] = entry
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [*attached.values()]}).encode()
    there.put_manifest("team/signed", referrers_tag(subject), index, INDEX)
    proxy(server, "signed", peer.url)
    root, charlie = admin(server), Registry(server.url, "charlie", server.password)
    eventually(root, "/v2/signed/signed/manifests/v1", 200)
    path = f"/v2/signed/signed/referrers/{subject}"

    def listed(query: str = "") -> list[dict[str, Any]]:
        return root.call("GET", path + query, expect=200).json()["manifests"]

    everything = sorted(attached.values(), key=lambda entry: entry["digest"])
    sbom, signature = attached.values()
    assert listed() == everything
    assert listed(f"?artifactType={sbom['artifactType']}") == [sbom], "its + is sent as it is"
    first = root.call("GET", f"{path}?n=1", expect=200)
    assert first.json()["manifests"] == everything[:1]
    following = first.headers["link"].partition("<")[2].partition(">")[0]
    assert root.call("GET", following, expect=200).json()["manifests"] == everything[1:]
    charlie.call("GET", path, expect=401)

    root.call("GET", f"/v2/signed/signed/manifests/{signature['digest']}", expect=200)
    for blob in (b"{}", signature["artifactType"].encode()):
        assert root.call("GET", f"/v2/signed/signed/blobs/{digest_of(blob)}", expect=200).body == blob
    peer.kill()
    wait_for(lambda: [entry["digest"] for entry in listed()] == [signature["digest"]], "what was asked for is kept", 20)
    assert listed()[0]["artifactType"] == signature["artifactType"]


def _rest(server: RegistryServer, who: str) -> Any:
    import httpx

    answer = httpx.post(f"{server.url}/api/v1/login", json={"username": who, "password": server.password}, trust_env=False)
    token = answer.raise_for_status().json()["token"]
    return httpx.Client(
        base_url=f"{server.url}/api/v1/", headers={"Authorization": f"Bearer {token}", "If-Match": "*"}, trust_env=False
    )


def test_rest_is_for_administrators_and_shows_no_secret(server: RegistryServer) -> None:
    body = {"namespace": "rest", "url": "https://93.184.216.34", "username": "bob", "secret": "hunter2hunter2"}
    with _rest(server, "admin") as root, _rest(server, "alice") as alice:
        made = root.post("proxies", json=body)
        assert made.status_code == 201
        assert made.json()["has_secret"]
        assert "hunter2" not in made.text
        path = f"proxies/{made.json()['id']}"
        assert root.post("proxies", json=body).status_code == 409
        assert root.post("proxies", json={**body, "namespace": "odd", "url": "http://10.0.0.1"}).status_code == 400
        for answer in (
            *(alice.get("proxies"), alice.get(path), alice.patch(path, json={"enabled": False}), alice.delete(path)),
            alice.post("proxies", json={**body, "namespace": "alice"}),
        ):
            assert answer.status_code in (403, 404), answer.text
        assert root.patch(path, json={"fresh": 5, "enabled": False}).json()["fresh"] == 5
        assert root.delete(path).status_code == 204
        assert "rest" not in [row["namespace"] for row in root.get("proxies").json()]


def test_what_nobody_pulled_for_long_goes_unless_it_runs(server: RegistryServer, peer: Upstream, there: RegistryClient) -> None:
    push_image(there, "team/app", "old", [b"old"])
    push_image(there, "team/app", "runs", [b"runs"])
    push_image(there, "team/app", "new", [b"new"])
    proxy(server, "keeping", peer.url, keep_days=7)
    root = admin(server)
    for tag in ("old", "runs", "new"):
        eventually(root, f"/v2/keeping/app/manifests/{tag}", 200)
    listed = "/v2/keeping/app/tags/list"
    wait_for(lambda: root.call("GET", listed).json()["tags"] == ["new", "old", "runs"], "all three are kept", 20)
    said = server.python(
        "import django; django.setup()\n"
        "from datetime import timedelta\n"
        "from django.utils import timezone\n"
        "from registry.actions import leases, proxies\n"
        "from registry.models import Manifest, Proxied, Tag\n"
        "leases.lease(Manifest.objects.get(repository__full_name='keeping/app', tags__name='runs').digest, 'service/1')\n"
        "past = timezone.now() - timedelta(days=8)\n"
        "Tag.objects.filter(repository__full_name='keeping/app').update(pushed_at=past)\n"
        "Manifest.objects.filter(repository__full_name='keeping/app').update(pushed_at=past)\n"
        "Proxied.objects.filter(name__in=['old', 'runs']).update(pulled_at=past)\n"
        "print(proxies.expire(), sorted(Tag.objects.filter(repository__full_name='keeping/app').values_list('name', flat=True)))"
    )
    assert said == "1 ['new', 'runs']\n"
