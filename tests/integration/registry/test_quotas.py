"""Quotas over the wire: what is reserved, settled and given back; and that the sums are what the links say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.distribution.client import Answer, Registry, with_digest
from tests.integration.registry.server import RegistryServer
from tests.integration.registry.world import manifest_of

MIB = 1 << 20
LIMIT = 4 * MIB

SHOW = """
import django; django.setup()
import json
from registry.models import Quota, Upload
from registry.actions import quotas
row = Quota.objects.get(namespace__name="alice")
print(json.dumps([row.used, row.reserved, quotas.held(row.pk), Upload.objects.count()]))
"""
SET = """
import django; django.setup()
from controlplane.api.actor import SYSTEM
from registry.actions import quotas
quotas.set_quota(SYSTEM, "alice", {limit})
"""


@pytest.fixture
def quota(server: RegistryServer, alice: Registry) -> Iterator[Callable[[], list[int]]]:
    """A namespace with a quota of 4 MiB beyond what it holds; gives (used, reserved) beyond that, proved against the links."""
    alice.push_blob("alice/first", b"so that the namespace is there")
    server.python(SET.format(limit=10 * LIMIT))
    before = json.loads(server.python(SHOW))[0]
    server.python(SET.format(limit=before + LIMIT))

    def show() -> list[int]:
        used, reserved, held, _ = json.loads(server.python(SHOW))
        assert used == held, "the sum is what the links say"
        return [used - before, reserved]

    assert show() == [0, 0]
    yield show
    server.python(
        "import django; django.setup()\nfrom registry.actions import quotas\nfrom controlplane.api.actor import SYSTEM\n"
        "quotas.remove_quota(SYSTEM, 'alice')"
    )


def body(seed: str, size: int) -> bytes:
    return (seed.encode() * size)[:size]


def refusal(answer: Answer) -> str:
    assert answer.status == 403, answer.body
    (error,) = answer.json()["errors"]
    assert error["code"] == "DENIED"
    return str(error["message"])


def test_each_blob_counts_once_a_namespace(quota: Callable[[], list[int]], alice: Registry) -> None:
    data = body("once", MIB)
    digest = alice.push_blob("alice/one", data)
    assert quota() == [MIB, 0]
    alice.push_blob("alice/one", data)
    alice.push_blob("alice/two", data)
    assert alice.call("POST", f"/v2/alice/three/blobs/uploads/?mount={digest}&from=alice/one", expect=201)
    assert quota() == [MIB, 0]


def test_over_it_nothing_is_stored_or_charged(quota: Callable[[], list[int]], alice: Registry) -> None:
    alice.push_blob("alice/full", body("a", 3 * MIB))
    text = refusal(alice.call("PATCH", alice.start("alice/full"), body("b", 2 * MIB)))
    assert "holds" in text
    assert "needs another 2.1 MB" in text
    assert quota() == [3 * MIB, 0], "at once"
    location = alice.start("alice/full")
    answer = alice.call("PUT", with_digest(location, "sha256:" + "0" * 64), body("c", 2 * MIB))
    refusal(answer)
    alice.call("GET", location, expect=404)
    digest = "sha256:" + "1" * 64
    refusal(alice.call("POST", f"/v2/alice/full/blobs/uploads/?digest={digest}", body("d", 2 * MIB)))
    assert quota() == [3 * MIB, 0]
    alice.push_blob("alice/full", body("e", MIB))
    assert quota() == [4 * MIB, 0], "to the last byte"
    refusal(alice.call("POST", f"/v2/alice/full/blobs/uploads/?digest={digest}", body("f", 10)))


def test_a_body_of_unknown_length_is_stopped_where_the_quota_ends(quota: Callable[[], list[int]], alice: Registry) -> None:
    chunks = [body(str(number), MIB) for number in range(8)]
    refusal(alice.call("PATCH", alice.start("alice/stream"), chunks))
    assert quota() == [0, 0]
    answer = alice.call("PATCH", alice.start("alice/stream"), chunks[:2], expect=202)
    used, reserved = quota()
    assert used == 0
    assert 2 * MIB <= reserved <= LIMIT
    alice.call("DELETE", answer.headers["location"], expect=204)
    assert quota() == [0, 0]


def test_what_is_reserved_comes_back(quota: Callable[[], list[int]], alice: Registry, server: RegistryServer) -> None:
    location = alice.call("PATCH", alice.start("alice/part"), body("p", MIB), expect=202).headers["location"]
    assert quota() == [0, MIB]
    refusal(alice.call("PATCH", alice.start("alice/part"), body("q", 4 * MIB)))
    alice.call("PUT", with_digest(location, "sha256:" + "0" * 64), b"", expect=400)  # not its digest: dropped
    assert quota() == [0, 0]
    alice.call("PATCH", alice.start("alice/part"), body("r", MIB), expect=202)
    assert quota() == [0, MIB]
    server.python(
        "import django; django.setup()\nfrom django.utils import timezone\nfrom datetime import timedelta\n"
        "from registry.models import Upload\nfrom registry.actions import uploads\nfrom registry.storage import open_store\n"
        "Upload.objects.update(expires_at=timezone.now() - timedelta(days=1))\nuploads.sweep(open_store())"
    )
    assert quota() == [0, 0], "an expired upload gives back what it held"


def test_deleted_blobs_are_freed(quota: Callable[[], list[int]], alice: Registry) -> None:
    digest = alice.push_blob("alice/one", body("gone", MIB))
    alice.push_blob("alice/two", body("gone", MIB))
    alice.call("DELETE", f"/v2/alice/one/blobs/{digest}", expect=202)
    assert quota() == [MIB, 0], "another repository of the namespace holds it"
    alice.call("DELETE", f"/v2/alice/two/blobs/{digest}", expect=202)
    assert quota() == [0, 0]


def test_a_push_into_a_nearly_full_namespace_is_warned(
    quota: Callable[[], list[int]], alice: Registry, server: RegistryServer
) -> None:
    config = b"{}"
    name = "alice/warned"
    alice.push_blob(name, config)
    raw = manifest_of(config, [])
    media = json.loads(raw)["mediaType"]
    assert "warning" not in alice.push_manifest(name, "v1", raw, media).headers
    layer = body("w", 4 * MIB - 300 * 1024)
    alice.push_blob(name, layer)
    answer = alice.push_manifest(name, "v2", manifest_of(config, [layer]), media)
    assert "of its quota" in answer.headers["warning"]
    seen = server.python(
        "import django; django.setup()\nfrom controlplane.events.models import Event\n"
        "print(Event.objects.filter(kind='quota.nearly_full').count())"
    )
    assert seen.strip() == "1"


def test_the_recount_puts_a_wrong_sum_right(quota: Callable[[], list[int]], server: RegistryServer) -> None:
    said = server.python(
        "import django; django.setup()\nfrom registry.models import Quota\nfrom registry.actions import quotas\n"
        "Quota.objects.update(used=77, reserved=5)\nprint(quotas.recount())\nprint(quotas.recount())"
    )
    first, second = said.strip().splitlines()
    assert "77 used and 5 reserved were" in first
    assert second == "[]"
    assert quota() == [0, 0]


def test_read_only_over_the_wire(server: RegistryServer, alice: Registry) -> None:
    digest = alice.push_blob("alice/ro", b"pulled all the same")
    switch = "import django; django.setup()\nfrom registry.actions import readonly\nfrom controlplane.api.actor import SYSTEM\n"
    server.python(f"{switch}readonly.enable(SYSTEM, 'the disk is changed at noon')")
    try:
        for answer in (
            alice.call("POST", "/v2/alice/ro/blobs/uploads/"),
            alice.call("PUT", "/v2/alice/ro/manifests/v1", b"{}"),
            alice.call("DELETE", f"/v2/alice/ro/blobs/{digest}"),
        ):
            assert answer.status == 405
            assert answer.error_codes() == ["UNSUPPORTED"]
            assert "the disk is changed at noon" in answer.json()["errors"][0]["message"]
        assert alice.call("GET", f"/v2/alice/ro/blobs/{digest}", expect=200).body == b"pulled all the same"
    finally:
        server.python(f"{switch}readonly.disable(SYSTEM)")
    alice.call("DELETE", f"/v2/alice/ro/blobs/{digest}", expect=202)


def test_immutable_tags_over_the_wire(server: RegistryServer, alice: Registry) -> None:
    name = alice.repository()
    config = b"{}"
    alice.push_blob(name, config)
    alice.push_blob(name, b"x")
    raw = manifest_of(config, [])
    media = json.loads(raw)["mediaType"]
    digest = alice.push_manifest(name, "v1", raw, media).headers["docker-content-digest"]
    server.python(
        "import django; django.setup()\nfrom registry.models import Repository\nfrom controlplane.api.actor import SYSTEM\n"
        "from registry.actions.repositories import update_repository\n"
        f"update_repository(SYSTEM, Repository.objects.get(full_name={name!r}), None, immutable_tags=True)"
    )
    alice.push_manifest(name, "v1", raw, media)
    other = manifest_of(config, [b"x"])
    for answer in (
        alice.call("PUT", f"/v2/{name}/manifests/v1", other, {"Content-Type": media}),
        alice.call("DELETE", f"/v2/{name}/manifests/v1"),
        alice.call("DELETE", f"/v2/{name}/manifests/{digest}"),
    ):
        assert (answer.status, answer.error_codes()) == (412, ["DENIED"])
        assert "immutable by the repository's setting" in answer.json()["errors"][0]["message"]


def test_a_leased_image_over_the_wire(server: RegistryServer, alice: Registry) -> None:
    name = alice.repository()
    config = b'{"leased": true}'
    alice.push_blob(name, config)
    raw = manifest_of(config, [])
    digest = alice.push_manifest(name, "v1", raw, json.loads(raw)["mediaType"]).headers["docker-content-digest"]
    lease = "import django; django.setup()\nfrom registry.actions import leases\n"
    server.python(f"{lease}leases.lease({digest!r}, 'service/shop')")
    for target in (digest, "v1"):
        answer = alice.call("DELETE", f"/v2/{name}/manifests/{target}")
        assert (answer.status, answer.error_codes()) == (409, ["DENIED"])
        assert "in use by service/shop" in answer.json()["errors"][0]["message"]
    server.python(f"{lease}leases.release('service/shop')")
    alice.call("DELETE", f"/v2/{name}/manifests/{digest}", expect=202)
