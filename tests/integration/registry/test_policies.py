"""Retention, pruning and promotion: the rehearsal says what the run does, and the run does no more."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from agent.protocol.errors import Denied, NotFound
from agent.protocol.oci import MEDIA_OCI_INDEX, parse_manifest
from controlplane.api.actor import SYSTEM, Actor
from controlplane.events.models import Event
from controlplane.jobs.models import Job
from registry.actions import leases, plans, promotion, pulls, reactions, runs, trash
from registry.actions.drafts import Draft, PromotionCycle
from registry.actions.filled import TargetReadOnly
from registry.actions.manifests import put_manifest
from registry.actions.policies import create_policy, draft, update_policy
from registry.actions.repositories import create_repository, update_repository
from registry.models import Manifest, Policy, Repository, Tag
from registry.rules.outcome import Outcome
from registry.storage import open_store
from tests.cast import Cast, cast
from tests.integration.registry import world
from tests.integration.registry.test_standing import immutable, push, tags

pytestmark = pytest.mark.django_db(transaction=True)
DEV, PROD = "library/dev", "library/prod"


@pytest.fixture(autouse=True)
def repositories(tmp_path: Path, settings: Any) -> None:
    settings.BLOB_STORE = str(tmp_path / "blobs")
    settings.REGISTRY_UNDO_WINDOW = 7 * 86400
    for name in (DEV, PROD):
        create_repository(SYSTEM, name)


def aged(tag: str, days: float, pulled: float | None = None) -> None:
    now = timezone.now()
    values = {"pushed_at": now - timedelta(days=days)}
    if pulled is not None:
        values["pulled_at"] = now - timedelta(days=pulled)
    Tag.objects.filter(name=tag).update(**values)


def fill() -> None:
    for number, name in enumerate(["v1", "v2", "rc1", "rc2", "latest"]):
        push(name, number, DEV)
        aged(name, 50 - 10 * number)
    immutable("v1", repository=DEV)
    leases.lease(Tag.objects.get(name="rc1").manifest.digest, "task/1")


def run(policy: Policy) -> list[str]:
    said: list[str] = []
    runs.run(policy, lambda number, count, text: said.append(text))
    return said


def acts(outcomes: list[Outcome]) -> dict[str, str]:
    return {item.tag: item.act for item in outcomes}


PRUNING = {"rules": [{"field": "updated_at", "operator": "before", "values": ["15 days"]}]}
RETENTION = {"rules": [{"keep": "latest_pushed", "value": "2"}]}
PROMOTION = {
    "rules": [{"field": "tag", "operator": "starts_with", "values": ["v"]}],
    "options": {"target": PROD, "template": "%n-ok"},
}


@pytest.mark.parametrize(("kind", "fields"), [("pruning", PRUNING), ("retention", RETENTION), ("promotion", PROMOTION)])
def test_the_rehearsal_is_the_run(kind: str, fields: dict[str, Any]) -> None:
    fill()
    drafted, _ = draft(SYSTEM, kind, repository=DEV, **fields)
    before = [list(Tag.objects.values()), Manifest.objects.count(), Event.objects.count()]
    rehearsed = plans.rehearse(drafted)
    assert [list(Tag.objects.values()), Manifest.objects.count(), Event.objects.count()] == before
    assert {item.act for item in rehearsed} >= {"remove" if kind != "promotion" else "promote"}
    said = run(create_policy(SYSTEM, kind, repository=DEV, **fields))
    assert said == [str(item) for item in rehearsed]
    removed = {item.tag for item in rehearsed if item.act == "remove"}
    assert set(tags(DEV)) == {"v1", "v2", "rc1", "rc2", "latest"} - removed
    assert set(tags(PROD)) == {item.target.partition(":")[2] for item in rehearsed if item.act == "promote"}


def test_rehearsals_cannot_write() -> None:
    from django.db.utils import DatabaseError

    with pytest.raises(DatabaseError), plans.read_only():
        Repository.objects.update(description="written")
    Repository.objects.update(description="afterwards")


def test_pruning_removes_what_meets_all_rules_but_not_what_is_held() -> None:
    fill()
    rules = [*PRUNING["rules"], {"field": "tag", "operator": "not_one_of", "values": ["v2"]}]
    policy = create_policy(SYSTEM, "pruning", repository=DEV, rules=rules)
    said = run(policy)
    assert tags(DEV) == ["latest", "rc1", "v1", "v2"]
    assert any("keep library/dev:v1: immutable by" in line for line in said)
    assert any("keep library/dev:rc1: in use by task/1" in line for line in said)
    policy.refresh_from_db()
    assert policy.ran == {"looked_at": 5, "done": 1, "kept": 4, "failed": 0}
    assert not Manifest.objects.filter(repository__full_name=DEV, tags=None).exists(), "the image went with its last tag"
    event = Event.objects.get(kind="tag.deleted")
    assert (event.data["tag"], event.actor_name) == ("rc2", f"policy/{policy.pk}")


def test_pruning_by_vulnerabilities_waits_for_a_scan() -> None:
    fill()
    rules = [{"field": "vulnerability_critical", "operator": "gte", "values": ["0"]}]
    outcomes = plans.rehearse(draft(SYSTEM, "pruning", repository=DEV, rules=rules)[0])
    assert {item.act for item in outcomes} == {"keep"}
    assert "unknown until" in outcomes[0].reasons[0]


def test_a_policy_for_future_tags_lets_the_others_be() -> None:
    push("old", 1, DEV)
    policy = create_policy(
        SYSTEM, "pruning", repository=DEV, initial=False, rules=[{"field": "tag", "operator": "contains", "values": ["o"]}]
    )
    push("olive", 2, DEV)
    run(policy)
    assert tags(DEV) == ["old"]


def test_retention_of_a_namespace_by_repository_pattern_and_untagged() -> None:
    digest = push("v1", 1, DEV)
    push("v1", 2, DEV)
    push("v1", 1, PROD)
    push("v1", 2, PROD)
    policy = create_policy(
        SYSTEM,
        "retention",
        namespace="library",
        repositories="d*",
        rules=[{"keep": "always"}],
        options={"untagged": True},
    )
    said = run(policy)
    assert any(f"remove {DEV}@{digest}: no tag names it" in line for line in said)
    assert not Manifest.objects.filter(repository__full_name=DEV, digest=digest).exists()
    assert Manifest.objects.filter(repository__full_name=PROD, digest=digest).exists()


def test_pulls_count_for_retention_also_by_digest() -> None:
    digest = push("a", 1, DEV)
    push("b", 2, DEV)
    push("c", 3, DEV)
    for name in "abc":
        aged(name, 30)
    pulls.count(DEV, digest, "bob")
    pulls.count(DEV, "b", "bob")
    assert pulls.flush() == 2
    assert Repository.objects.get(full_name=DEV).pulls == 2
    policy = create_policy(SYSTEM, "retention", repository=DEV, rules=[{"keep": "pulled_within", "value": "1 hour"}])
    run(policy)
    assert tags(DEV) == ["a", "b"]


def test_an_index_goes_with_its_children_and_referrers_and_shared_ones_stay() -> None:
    store = open_store()
    children = [push(f"tmp{number}", number, DEV) for number in (1, 2)]
    Tag.objects.all().delete()

    def index(tag: str, names: list[str]) -> str:
        sizes = dict(Manifest.objects.values_list("digest", "size"))
        body = {
            "schemaVersion": 2,
            "mediaType": MEDIA_OCI_INDEX,
            "manifests": [
                {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": name, "size": sizes[name]} for name in names
            ],
        }
        return world.push_manifest(DEV, json.dumps(body).encode(), tag)

    world.push_blob(store, DEV, b"{}")
    first = index("first", children)
    index("second", children[1:])
    sign(DEV, first)
    policy = create_policy(SYSTEM, "pruning", repository=DEV, rules=[{"field": "tag", "operator": "equals", "values": ["first"]}])
    run(policy)
    left = set(Manifest.objects.filter(repository__full_name=DEV).values_list("digest", flat=True))
    assert left == {children[1], Tag.objects.get(name="second").manifest.digest}


def sign(name: str, subject: str) -> str:
    """A referrer, as signatures are."""
    row = Manifest.objects.get(repository__full_name=name, digest=subject)
    world.push_blob(open_store(), name, b"{}")
    document = json.loads(world.manifest_of(b"{}", []))
    document["artifactType"] = "application/vnd.example.signature"
    document["subject"] = {"mediaType": row.media_type, "digest": subject, "size": row.size}
    raw = json.dumps(document).encode()
    parsed = parse_manifest(raw)
    return put_manifest(SYSTEM, name, parsed, parsed.digest(), [], []).digest


def test_promotion_takes_the_image_with_its_referrers_and_does_nothing_twice() -> None:
    digest = push("v1", 1, DEV)
    signature = sign(DEV, digest)
    policy = create_policy(SYSTEM, "promotion", repository=DEV, **PROMOTION)
    run(policy)
    assert Tag.objects.get(repository__full_name=PROD).name == "v1-ok"
    found = set(Manifest.objects.filter(repository__full_name=PROD).values_list("digest", flat=True))
    assert found == {digest, signature}
    assert [event.data["target_tag"] for event in Event.objects.filter(kind="tag.promoted")] == ["v1-ok"]
    before = Event.objects.count()
    assert "it names the same image already" in run(policy)[0]
    assert not Event.objects.filter(id__gt=before, kind__startswith="tag.").exists()
    moved = Tag.objects.get(repository__full_name=PROD)
    assert moved.pushed_by == f"policy/{policy.pk}", "the actor is the policy"


def test_a_push_is_promoted_by_the_reaction_and_its_job(people: Cast) -> None:
    from controlplane.jobs.declare import discover, kind_of

    discover()
    reactions.run()  # a reaction begins with the events after its first run
    create_policy(SYSTEM, "promotion", repository=DEV, initial=False, **PROMOTION)
    push("v7", 7, DEV)
    push("x7", 8, DEV)
    reactions.run()
    jobs = list(Job.objects.filter(kind="registry.promote"))
    assert {job.payload["tag"] for job in jobs} == {"v7", "x7"}  # of one millisecond: they have no order
    assert len(jobs) == 2

    class Context:
        def log(self, text: str) -> None: ...

    for job in jobs:
        kind_of(job.kind).function(Context(), **job.payload)
    assert tags(PROD) == ["v7-ok"]


@pytest.fixture
def people() -> Cast:
    return cast()


def test_who_may_save_a_promotion(people: Cast) -> None:
    for name in ("alice/dev", "alice/prod"):
        create_repository(people.actor("alice"), name)
    options = {"target": "alice/prod", "template": "%n"}
    create_policy(people.actor("alice"), "promotion", repository="alice/dev", options=options)
    with pytest.raises((Denied, NotFound)):
        create_policy(people.actor("charlie"), "promotion", repository="alice/dev", options=options)
    create_repository(people.actor("charlie"), "charlie/prod", visibility="public")
    with pytest.raises(Denied):
        create_policy(people.actor("alice"), "promotion", repository="alice/dev", options={"target": "charlie/prod"})
    create_policy(people.actor("admin"), "promotion", repository="alice/dev", options={"target": "charlie/prod"})
    with pytest.raises(Denied):
        create_policy(people.actor("charlie"), "immutability", namespace="alice", tags="*")
    create_policy(people.actor("alice"), "immutability", namespace="alice", tags="v*")


def test_cycles_are_refused_when_saved() -> None:
    create_repository(SYSTEM, "library/stage")
    create_policy(SYSTEM, "promotion", repository=DEV, options={"target": "library/stage"})
    last = create_policy(SYSTEM, "promotion", repository="library/stage", options={"target": PROD})
    for source, target in ((PROD, DEV), (DEV, DEV), ("library/stage", DEV)):
        with pytest.raises(PromotionCycle, match="for ever"):
            create_policy(SYSTEM, "promotion", repository=source, options={"target": target})
    update_policy(SYSTEM, last, None, enabled=False)
    create_policy(SYSTEM, "promotion", repository=PROD, options={"target": DEV})
    with pytest.raises(PromotionCycle):
        update_policy(SYSTEM, last, None, enabled=True)


def test_an_immutable_target_refuses_and_says_so() -> None:
    push("v1-ok", 1, PROD)
    immutable("*", repository=PROD)
    push("v1", 2, DEV)
    said = run(create_policy(SYSTEM, "promotion", repository=DEV, **PROMOTION))
    assert "refuse library/dev:v1 to library/prod:v1-ok" in said[0]
    assert "immutable" in said[0]


def test_what_a_mirror_fills_takes_no_promotion_and_no_restored_tag(people: Cast) -> None:
    push("v1", 2, DEV)
    old = Tag.objects.get(repository__full_name=DEV).manifest.digest
    push("v1", 3, DEV)
    Repository.objects.filter(full_name__in=[DEV, PROD]).update(mirrored_from="registry.example.org/team/web")
    source, target = (Repository.objects.get(full_name=name) for name in (DEV, PROD))
    with pytest.raises(TargetReadOnly, match=r"registry\.example\.org"):
        promotion.promote(SYSTEM, source, old, target, "v1")
    with pytest.raises(TargetReadOnly):
        trash.restore_tag(people.actor("admin"), source, "v1", old)
    assert not target.tags.exists()


def test_manual_promotion_needs_the_callers_own_rights(people: Cast) -> None:
    create_repository(people.actor("alice"), "alice/dev", visibility="public")
    push("v1", 1, "alice/dev")
    source = Repository.objects.get(full_name="alice/dev")
    create_repository(people.actor("charlie"), "charlie/copy")
    assert promotion.promote_by_hand(people.actor("charlie"), source, "v1", "charlie/copy", "mine")
    event = Event.objects.get(kind="tag.promoted")
    assert (event.actor_name, event.data["manual"]) == ("charlie", True)
    with pytest.raises((Denied, NotFound)):
        promotion.promote_by_hand(people.actor("charlie"), source, "v1", "library/prod", "x")


def test_the_tag_limit_is_rehearsed_as_it_evicts() -> None:
    fill()
    row = Repository.objects.get(full_name=DEV)
    drafted = Draft(plans.TAG_LIMIT, row.namespace_id, row.pk)
    rehearsed = plans.rehearse(drafted, 4)
    update_repository(SYSTEM, row, None, tag_limit=4)
    before = set(tags(DEV))
    push("new", 9, DEV)
    assert before - set(tags(DEV)) == {item.tag for item in rehearsed if item.act == "remove"} == {"v2", "rc2"}


def test_immutability_is_rehearsed_as_it_holds() -> None:
    fill()
    rehearsed = acts(plans.rehearse(draft(SYSTEM, "immutability", repository=DEV, tags="rc*")[0]))
    immutable("rc*", repository=DEV)
    from registry.errors import TagImmutable

    for number, name in enumerate(sorted(rehearsed)):
        try:
            push(name, 100 + number, DEV)
            refused = False
        except TagImmutable:
            refused = True
        assert refused is (rehearsed[name] == "hold"), name


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the same on PostgreSQL by REPEATABLE READ, READ ONLY")
def test_sqlite_writes_again_after_a_rehearsal_that_failed() -> None:
    with pytest.raises(ZeroDivisionError), plans.read_only():
        raise ZeroDivisionError
    push("v1", 1, DEV)


def test_an_actor_without_a_user_owns_no_namespace() -> None:
    with pytest.raises(Denied):
        create_policy(Actor("robot", "r", "r"), "immutability", namespace="library", tags="*")
