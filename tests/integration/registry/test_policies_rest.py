"""REST of policies, quotas, promotions, undo and read-only mode: what owners do, and that nobody else can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controlplane.jobs.models import Job
from nodes.actions import create_service
from registry.actions import leases
from registry.models import Policy, Quota, Repository
from tests.integration.nodes import fleet
from tests.integration.registry.crowd import Crowd, Push, crowd, push, store  # noqa: F401  # fixtures

pytestmark = pytest.mark.django_db(transaction=True)
ANY = {"If-Match": "*"}
PRUNE = {"kind": "pruning", "rules": [{"field": "tag", "operator": "starts_with", "values": ["tmp"]}]}


@pytest.fixture
def web(crowd: Crowd, push: Push, settings: Any) -> dict[str, Any]:  # noqa: F811  # fixtures
    settings.REGISTRY_UNDO_WINDOW = 7 * 86400
    crowd.alice.call("post", "repositories", {"name": "harbour/prod"}, expect=201)
    made = crowd.alice.call("post", "repositories", {"name": "harbour/web"}, expect=201)
    push("harbour/web", "v1")
    return {**made, "digest": push("harbour/web", "tmp-1", layers=(b"another",))}


def test_a_policy_from_rehearsal_to_removal(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    alice = crowd.alice
    rehearsed = alice.call("post", "policies/rehearsal", {**PRUNE, "repository": "harbour/web"})
    assert {row["tag"]: row["act"] for row in rehearsed} == {"v1": "keep", "tmp-1": "remove"}
    assert rehearsed[0]["reasons"] == ["tag starts with tmp"]
    made = alice.call("post", "policies", {**PRUNE, "repository": "harbour/web"}, expect=201)
    assert (made["repository"], made["namespace"], made["author_name"], made["version"]) == ("harbour/web", "harbour", "alice", 1)
    assert Job.objects.get(kind="registry.policies").payload == {"policy": made["id"]}, "a changed policy runs at once"
    path = f"policies/{made['id']}"
    assert alice.call("get", "policies?repository=harbour/web&kind=pruning") == [alice.call("get", path)]
    alice.call("patch", path, {"enabled": False}, expect=428)
    alice.call("patch", path, {"rules": []}, expect=400, **ANY)
    assert alice.call("patch", path, {"enabled": False}, **{"If-Match": '"v1"'})["enabled"] is False
    alice.call("patch", path, {"enabled": True}, expect=412, **{"If-Match": '"v1"'})
    started = alice.call("post", f"{path}/run", {"dry_run": True}, expect=202)
    assert Job.objects.get(pk=started["job"]).payload["dry_run"] is True
    alice.call("delete", path, expect=204, **ANY)
    assert not Policy.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "pruning"},
        {"kind": "flattening", "repository": "harbour/web"},
        {"kind": "pruning", "repository": "harbour/web"},
        {"kind": "pruning", "repository": "harbour/web", "rules": [{"field": "tag"}]},
        {"kind": "retention", "repository": "harbour/web", "rules": [{"keep": "some"}]},
        {"kind": "immutability", "repository": "harbour/web", "tags": "["},
        {"kind": "immutability", "repository": "harbour/web", "namespace": "harbour"},
        {"kind": "promotion", "repository": "harbour/web", "options": {"target": "harbour/prod", "template": "%q"}},
        {"kind": "promotion", "repository": "harbour/web", "options": {"target": "harbour/web"}},
        {"kind": "promotion", "namespace": "harbour", "options": {"target": "harbour/web"}},
    ],
)
def test_what_is_no_policy(crowd: Crowd, web: dict[str, Any], body: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    crowd.alice.call("post", "policies", body, expect=400)
    crowd.alice.call("post", "policies/rehearsal", body, expect=400)


def test_a_rehearsal_names_what_its_reader_may_see(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    fleet.node("n1")
    spec = fleet.spec("shop", replicas=1)
    spec = replace(spec, container=replace(spec.container, image="harbour/web:v1"))
    service = create_service(crowd.admin.actor, spec)
    body = {"kind": "retention", "repository": "harbour/web", "rules": [{"keep": "latest_pushed", "value": "1"}]}
    (row,) = [row for row in crowd.admin.call("post", "policies/rehearsal", body) if row["tag"] == "v1"]
    assert row["reasons"] == ["in use by service shop"]
    assert row["holders"] == [{"text": "service shop", "url": "/services/by-name/shop"}]
    (row,) = [row for row in crowd.alice.call("post", "policies/rehearsal", body) if row["tag"] == "v1"]
    assert row["reasons"] == ["in use by a service that you may not see"]
    assert row["holders"] == []
    assert service.pk not in str(row)


def test_rehearsals_of_a_tag_limit_and_a_quota(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    body = {"kind": "tag_limit", "repository": "harbour/web", "options": {"limit": 2}}
    assert {row["tag"]: row["act"] for row in crowd.alice.call("post", "policies/rehearsal", body)} == {
        "v1": "remove",
        "tmp-1": "keep",
    }
    body = {"kind": "quota", "namespace": "harbour", "options": {"limit": 10}}
    (outcome,) = crowd.alice.call("post", "policies/rehearsal", body)
    assert outcome["act"] == "refuse"


def test_strangers_get_nothing(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    made = crowd.alice.call("post", "policies", {**PRUNE, "repository": "harbour/web"}, expect=201)
    whole = crowd.alice.call("post", "policies", {"kind": "immutability", "namespace": "harbour", "tags": "v*"}, expect=201)
    crowd.alice.call("delete", f"repositories/{web['id']}/tags/tmp-1", expect=204)
    gone = crowd.alice.call("post", "repositories", {"name": "harbour/gone"}, expect=201)
    crowd.alice.call("delete", f"repositories/{gone['id']}", expect=204, **ANY)
    crowd.admin.call("put", "quotas/harbour", {"limit": 1000})
    repository = f"repositories/{web['id']}"
    asked = [
        ("post", "policies", {**PRUNE, "repository": "harbour/web"}),
        ("post", "policies", {**PRUNE, "namespace": "harbour"}),
        ("post", "policies/rehearsal", {**PRUNE, "repository": "harbour/web"}),
        *(("get", f"policies/{row['id']}", None) for row in (made, whole)),
        *(("patch", f"policies/{row['id']}", {"enabled": False}) for row in (made, whole)),
        *(("post", f"policies/{row['id']}/run", {}) for row in (made, whole)),
        *(("delete", f"policies/{row['id']}", None) for row in (made, whole)),
        ("post", f"{repository}/promotions", {"tag": "v1", "target": "harbour/prod"}),
        ("get", f"{repository}/states?at=2030-01-01T00:00:00Z", None),
        ("post", f"{repository}/tags/tmp-1/restore", {"digest": web["digest"]}),
        ("get", f"{repository}/trash", None),
        ("delete", f"{repository}/trash", None),
        ("post", f"{repository}/trash/restore", {"digest": web["digest"]}),
        ("get", f"deleted-repositories/{gone['id']}", None),
        ("post", f"deleted-repositories/{gone['id']}/restore", {}),
        ("delete", f"deleted-repositories/{gone['id']}", None),
        ("get", "quotas/harbour", None),
    ]
    for caller, expected in ((crowd.charlie, (403, 404)), (crowd.nobody, (401, 404))):
        for method, path, body in asked:
            options = {} if body is None else {"data": body, "content_type": "application/json"}
            status = getattr(caller.client, method)(f"/api/v1/{path}", headers=ANY, **options).status_code
            assert status in expected, (method, path, status)
    for method, path in (("put", "quotas/harbour"), ("delete", "quotas/harbour"), ("put", "registry/read-only")):
        for caller in (crowd.alice, crowd.charlie):
            caller.call(method, path, {"limit": 5, "reason": "x"} if method == "put" else None, expect=403)
    for path in ("policies", "deleted-repositories", "quotas"):
        assert crowd.charlie.call("get", path) == []
    assert Policy.objects.count() == 2
    assert Quota.objects.get().limit == 1000


def test_delete_with_force(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    leases.lease(web["digest"], "service/shop")
    path = f"repositories/{web['id']}"
    for target in ("/tags/tmp-1", f"/manifests/{web['digest']}", ""):
        refused = crowd.alice.call("delete", path + target, expect=409, **ANY)
        assert refused["code"] == "image_in_use"
        assert refused["holders"] == ["service/shop"]
    crowd.alice.call("delete", f"{path}/tags/tmp-1?force=true", expect=204)
    crowd.alice.call("delete", f"{path}/manifests/{web['digest']}?force=true", expect=204)
    crowd.alice.call("delete", f"{path}?force=true", expect=204, **ANY)


def test_the_time_machine(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    alice, path = crowd.alice, f"repositories/{web['id']}"
    alice.call("delete", f"{path}/manifests/{web['digest']}", expect=204)
    (row,) = alice.call("get", f"{path}/trash")
    assert (row["digest"], row["tags"], row["actor_name"]) == (web["digest"], ["tmp-1"], "alice")
    assert alice.call("post", f"{path}/trash/restore", {"digest": web["digest"]}) == {"tags": ["tmp-1"]}
    alice.call("post", f"{path}/tags/v1/restore", {"digest": web["digest"]})
    alice.call("get", f"{path}/states?at=then", expect=400)
    states = alice.call("get", f"{path}/states?at=2099-01-01T00:00:00Z")
    assert states == [{"tag": "tmp-1", "digest": web["digest"]}, {"tag": "v1", "digest": web["digest"]}]
    assert alice.call("get", f"{path}/states?at=2001-01-01T00:00:00Z") == []
    alice.call("delete", path, expect=204, **ANY)
    (gone,) = alice.call("get", "deleted-repositories")
    assert (gone["name"], gone["deleted_by"]) == ("harbour/web", "alice")
    alice.call("post", f"deleted-repositories/{gone['id']}/restore", {})
    assert Repository.objects.filter(full_name="harbour/web").exists()
    alice.call("delete", path, expect=204, **ANY)
    alice.call("delete", f"deleted-repositories/{gone['id']}", expect=204)
    assert alice.call("get", "deleted-repositories") == []


def test_promotion_by_hand(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    path = f"repositories/{web['id']}/promotions"
    body = {"tag": "v1", "target": "harbour/prod", "target_tag": "ok"}
    assert crowd.alice.call("post", path, body) == {"promoted": True}
    assert crowd.alice.call("post", path, body) == {"promoted": False}
    crowd.alice.call("post", path, {**body, "tag": "none"}, expect=404)
    crowd.alice.call("post", path, {**body, "target": "harbour/none"}, expect=404)


def test_quotas(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    set_to = crowd.admin.call("put", "quotas/harbour", {"limit": 5000})
    assert set_to["used"] > 0, "what is there counts at once"
    assert crowd.alice.call("get", "quotas/harbour") == crowd.alice.call("get", "quotas")[0]
    crowd.admin.call("put", "quotas/nowhere", {"limit": 1}, expect=404)
    crowd.admin.call("put", "quotas/harbour", {"limit": -1}, expect=400)
    crowd.admin.call("delete", "quotas/harbour", expect=204)
    crowd.alice.call("get", "quotas/harbour", expect=404)


def test_read_only(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    crowd.admin.call("put", "registry/read-only", {"reason": "  "}, expect=400)
    shown = crowd.admin.call("put", "registry/read-only", {"reason": "the store moves"})
    assert (shown["enabled"], shown["by"]) == (True, "admin")
    assert crowd.charlie.call("get", "registry/read-only")["reason"] == "the store moves"
    refused = crowd.alice.call("delete", f"repositories/{web['id']}/tags/v1", expect=405)
    assert "the store moves" in refused["detail"]
    crowd.admin.call("delete", "registry/read-only", expect=204)
    crowd.alice.call("delete", f"repositories/{web['id']}/tags/v1", expect=204)


def test_settings_of_a_repository(crowd: Crowd, web: dict[str, Any]) -> None:  # noqa: F811  # fixtures
    path = f"repositories/{web['id']}"
    changed = crowd.alice.call("patch", path, {"immutable_tags": True, "tag_limit": 3}, **ANY)
    assert (changed["immutable_tags"], changed["tag_limit"]) == (True, 3)
    refused = crowd.alice.call("delete", f"{path}/tags/v1", expect=412)
    assert refused["code"] == "tag_immutable"
