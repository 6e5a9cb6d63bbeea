"""Every console page: shown to who may see it, explained to who may not, closed to strangers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.test import Client

from agent.protocol.messages import ContainerInfo, Contents, Samples
from agent.protocol.oci import MEDIA_OCI_CONFIG, MEDIA_OCI_MANIFEST
from agent.protocol.spec import Placement
from controlplane.api.actor import actor_of_user
from controlplane.jobs import enqueue
from controlplane.jobs.models import Job
from controlplane.rbac.models import Grant
from nodes import actions
from nodes.models import Container, Node, Service
from registry.actions.proxies import create_proxy
from registry.models import Lease, Policy, Proxy, Quota, ReadOnly, Repository, Robot, Setting
from tests.cast import PASSWORD, Cast
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(people: Cast) -> dict[str, str]:
    """A node with a container, a service that runs, one that cannot be placed, a repository, a job."""
    repository = fleet.image()
    config = {"mediaType": MEDIA_OCI_CONFIG, "digest": "sha256:" + "a" * 64, "size": 2}
    document = {"schemaVersion": 2, "mediaType": MEDIA_OCI_MANIFEST, "config": config, "layers": []}
    repository.manifests.update(content=json.dumps(document).encode())
    row = fleet.node("n1")
    epoch = Node.objects.get(pk=row.pk).epoch
    admin = actor_of_user(people.admin)
    service = actions.create_service(admin, fleet.spec("web", replicas=1))
    fleet.obey()
    picky = fleet.spec("picky", placement=Placement(constraints=("node.labels.zone==moon",)))
    actions.create_service(admin, picky)
    actions.reconcile_round()
    task = service.tasks.get()
    info = ContainerInfo(
        "c" * 64, "web.1", "library/web", "sha256:" + "b" * 64, "running", 1.7e9, pid=7, started=1.7e9, task_id=task.pk
    )
    actions.record_contents(row.pk, Contents(epoch, (info,), ()))
    for at in (1.0, 2.0):
        actions.record_samples(
            row.pk, Samples(epoch, at, {"cpu_seconds": at, "memory_used": 5.0}, {"c" * 64: {"cpu_seconds": at}})
        )
    job = enqueue("jobs.sleep", {"seconds": 1}, actor=admin)
    return {
        "node": row.pk,
        "container": Container.objects.get().pk,
        "repository": repository.full_name,
        "digest": repository.manifests.first().digest,
        "job": job.pk,
        "service": "web",
        "proxy": create_proxy(admin, namespace="hub", url="https://93.184.216.34", prefix="library").pk,
    }


PAGES = [
    "/", "/search?q=web", "/users", "/tokens", "/jobs", "/jobs/{job}", "/events", "/services", "/services/new",
    "/services/by-name/web", "/services/by-name/web/logs", "/services/by-name/web/spec", "/services/by-name/web/edit",
    "/services/by-name/picky", "/containers", "/containers?all=1", "/containers/{container}", "/containers/{container}/logs",
    "/containers/{container}/terminal", "/containers/{container}/chart/cpu", "/containers/{container}/chart/memory", "/nodes",
    "/nodes/{node}", "/nodes/{node}/chart/cpu", "/nodes/{node}/chart/memory", "/nodes/{node}/chart/network", "/nodes/chart/cpu",
    "/nodes/chart/memory", "/repositories", "/repositories/{repository}",
    "/repositories/{repository}/-/info", "/repositories/{repository}/-/settings", "/repositories/{repository}/-/activity",
    "/repositories/{repository}/-/access", "/repositories/{repository}/-/access?user=bob", "/robots", "/storage",
    "/storage/chart", "/repositories/{repository}/-/compare?before={digest}&after={digest}",
    "/repositories?sort=-size&label=a&q=b", "/repositories/{repository}/-/{digest}",
    "/repositories/{repository}/-/webhooks", "/repositories/{repository}/-/mirrors",
    "/repositories/{repository}/-/history", "/repositories/{repository}/-/policies", "/repositories/{repository}/-/promote",
    "/repositories/{repository}/-/policies/draft?kind=retention", "/repositories/{repository}/-/policies/draft?kind=pruning",
    "/repositories/{repository}/-/policies/draft?kind=promotion", "/deleted-repositories", "/read-only",
    "/proxies", "/proxies/{proxy}",
    "/repositories/{repository}/-/policies/draft?kind=tag_limit&limit=1&rehearse=1",
]  # fmt: skip
# Not nodes, which everybody sees below /Shared, and not the repository, which is public.
OBJECTS = [page for page in PAGES if "{container}" in page or "{job}" in page or "by-name" in page]


def browser(name: str) -> Client:
    client = Client()
    answer = client.post("/login", {"username": name, "password": PASSWORD}, secure=True)
    assert answer.status_code == 302, answer.content
    return client


@pytest.mark.parametrize("page", PAGES)
def test_an_administrator_sees_every_page(world: dict[str, str], page: str) -> None:
    answer = browser("admin").get(page.format(**world), secure=True)
    assert answer.status_code == 200
    if "chart" not in page:
        assert b"<h1" in answer.content


@pytest.mark.parametrize("page", ["/", "/search?q=web", "/nodes/{node}", "/repositories/{repository}/-/{digest}", "/robots"])
def test_who_holds_grants_but_is_no_administrator_sees_it_too(world: dict[str, str], page: str) -> None:
    answer = browser("bob").get(page.format(**world), secure=True)
    assert answer.status_code == 200, answer.content


@pytest.mark.parametrize(
    "page",
    [
        "/storage",
        "/storage/chart",
        "/proxies",
        "/proxies/{proxy}",
        "/repositories/{repository}/-/access",
        "/repositories/{repository}/-/settings",
    ],
)
def test_what_is_for_administrators_is_refused_with_its_reason(world: dict[str, str], page: str) -> None:
    answer = browser("bob").get(page.format(**world), secure=True)
    assert answer.status_code == 403
    assert b"Missing:" in answer.content


def test_an_administrator_adds_changes_and_removes_a_proxy(people: Cast) -> None:
    client = browser("admin")
    both = {"username": "robot", "secret": "hunter2hunter2", "fresh": "60", "keep_days": "30", "tls_ca": ""}
    place = {"namespace": "hub", "url": "https://93.184.216.34", "prefix": "library", "visibility": "public"}
    assert browser("bob").post("/proxies", {"act": "add", **place, **both}, secure=True).status_code in (302, 403)
    assert not Proxy.objects.exists()
    client.post("/proxies", {"act": "add", **place, **both, "fresh": "-1"}, secure=True)
    assert b"whole number" in client.get("/proxies", secure=True).content
    page = client.post("/proxies", {"act": "add", **place, **both}, secure=True).headers["location"]
    row = Proxy.objects.get()
    assert (page, row.prefix, row.visibility, row.username) == (f"/proxies/{row.pk}", "library", "public", "robot")
    text = client.get(page, secure=True).content.decode()
    assert "93.184.216.34/library" in text
    assert "hunter2" not in text
    change = {"act": "save", **both, "secret": "", "fresh": "5", "tls_skip": "on", "version": str(row.version)}
    for _ in range(2):  # the second form is an old one
        client.post(page, change, secure=True)
    assert b"changed by somebody else" in client.get(page, secure=True).content
    client.post(page, {"act": "switch"}, secure=True)
    changed = Proxy.objects.get()
    assert (changed.fresh, changed.tls_verify, changed.enabled) == (5, False, False)
    assert changed.sealed_secret == row.sealed_secret, "an empty field keeps it"
    for act in ("save", "switch", "remove"):
        browser("bob").post(page, {**change, "act": act}, secure=True)
    assert Proxy.objects.get().version == changed.version
    assert client.post(page, {"act": "remove"}, secure=True).headers["location"] == "/proxies"
    assert not Proxy.objects.exists()
    assert client.get(page, secure=True).status_code == 404


def test_a_robots_secret_is_shown_once(people: Cast) -> None:
    client = browser("alice")
    right = {"repositories": "harbour/*", "actions": ["pull", "push"]}
    client.post("/robots", {"act": "create", "name": "ci", "namespace": "harbour", "days": "30", **right}, secure=True)
    text = client.get("/robots", secure=True).content.decode()
    found = re.search(r"wharfbot_[\w-]+", text)
    assert found
    assert "harbour+ci" in text
    assert found[0] not in client.get("/robots", secure=True).content.decode()
    robot = Robot.objects.get()
    for name in ("bob", "charlie"):
        for act in ("rotate", "disable", "remove"):
            assert browser(name).post("/robots", {"act": act, "id": robot.pk}, secure=True).status_code == 404
        assert browser(name).get(f"/robots/{robot.pk}", secure=True).status_code == 404
        assert browser(name).post(f"/robots/{robot.pk}", {"act": "save"}, secure=True).status_code == 404
    assert b"harbour/*=pull" in client.get(f"/robots/{robot.pk}", secure=True).content
    changed = {
        "act": "save",
        "rights": "harbour/web=pull\nharbour/b=pull,push",
        "cidrs": "10.0.0.0/8",
        "days": "",
        "description": "d",
    }
    client.post(f"/robots/{robot.pk}", changed, secure=True)
    robot.refresh_from_db()
    assert [right["actions"] for right in robot.rights] == [["pull"], ["pull", "push"]]
    assert (robot.cidrs, robot.expires_at, robot.description) == (["10.0.0.0/8"], None, "d")
    client.post(f"/robots/{robot.pk}", {**changed, "rights": "alice/x=pull", "days": "keep"}, secure=True)
    assert len(Robot.objects.get().rights) == 2, "not beyond its namespace"
    client.post("/robots", {"act": "disable", "id": robot.pk}, secure=True)
    assert Robot.objects.get().disabled
    client.post("/robots", {"act": "remove", "id": robot.pk}, secure=True)
    assert not Robot.objects.exists()


def test_rights_are_given_and_taken_on_the_page_by_who_may(world: dict[str, str], people: Cast) -> None:
    page = f"/repositories/{world['repository']}/-/access"
    form = {"act": "give", "kind": "team", "name": "harbour/crane", "role": "read-write", "where": "repository"}
    assert browser("bob").post(page, form, secure=True).status_code == 302
    assert not Grant.objects.filter(subject_kind="team").exists()
    client = browser("admin")
    client.post(page, form, secure=True)
    grant = Grant.objects.get(subject_kind="team")
    assert "harbour/crane" in client.get(page, secure=True).content.decode()
    browser("bob").post(page, {"act": "take", "grant": grant.pk}, secure=True)
    assert Grant.objects.filter(pk=grant.pk).exists()
    client.post(page, {"act": "take", "grant": grant.pk}, secure=True)
    assert not Grant.objects.filter(pk=grant.pk).exists()


def test_upkeep_is_run_and_switched_by_administrators_alone(world: dict[str, str]) -> None:
    browser("bob").post("/storage", {"act": "run", "kind": "registry.gc"}, secure=True)
    browser("bob").post("/storage", {"act": "switch", "name": "create_on_push", "on": "0"}, secure=True)
    assert not Job.objects.filter(kind="registry.gc").exists()
    assert not Setting.objects.exists()
    client = browser("admin")
    answer = client.post("/storage", {"act": "run", "kind": "registry.gc", "dry": "1"}, secure=True)
    job = Job.objects.get(kind="registry.gc")
    assert answer["Location"] == f"/jobs/{job.pk}"
    assert job.payload == {"dry_run": True}
    client.post("/storage", {"act": "run", "kind": "jobs.sleep"}, secure=True)
    assert not Job.objects.filter(kind="jobs.sleep", actor_name="admin", payload={}).exists()
    client.post("/storage", {"act": "switch", "name": "create_on_push", "on": "0"}, secure=True)
    assert Setting.objects.get().value is False


@pytest.mark.parametrize("page", PAGES)
def test_who_is_not_signed_in_is_sent_to_the_login(world: dict[str, str], page: str) -> None:
    answer = Client().get(page.format(**world), secure=True)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/login?next=")


@pytest.mark.parametrize("page", OBJECTS)
def test_a_stranger_does_not_learn_that_a_thing_exists(world: dict[str, str], page: str) -> None:
    answer = browser("charlie").get(page.format(**world), secure=True)
    assert answer.status_code == 404


def test_a_pending_task_says_why(world: dict[str, str]) -> None:
    text = browser("admin").get("/services/by-name/picky", secure=True).content.decode()
    assert "node.labels.zone==moon" in text


def test_the_overview_names_what_needs_a_person(world: dict[str, str]) -> None:
    text = browser("admin").get("/", secure=True).content.decode()
    assert "Service picky is not whole" in text


FORM: dict[str, Any] = {
    "form": "guided",
    "name": "shop",
    "image": "library/web:1",
    "replicas": "2",
    "ports": "8080:80",
    "env": "A=b",
}


def test_the_guided_form_creates_a_service(world: dict[str, str]) -> None:
    answer = browser("admin").post("/services/new", FORM, secure=True)
    assert answer.status_code == 302
    spec = Service.objects.get(name="shop").wanted
    assert spec.replicas == 2
    assert spec.container.ports[0].published == 8080
    assert spec.container.env == {"A": "b"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"replicas": "many"}, "not a whole number"),
        ({"ports": "eighty"}, "needs the form"),
        ({"env": "novalue"}, "NAME=value"),
        ({"image": "UPPER"}, "not valid"),
        ({"name": "web"}, "web"),
        ({"image": "library/absent:1"}, "absent"),
    ],
)
def test_the_form_says_what_is_wrong_and_keeps_what_was_typed(world: dict[str, str], change: dict[str, str], says: str) -> None:
    answer = browser("admin").post("/services/new", {**FORM, **change}, secure=True)
    assert answer.status_code >= 400
    text = answer.content.decode()
    assert says in text
    assert "8080:80" in text or "ports" in change


def test_editing_in_the_form_keeps_what_it_does_not_show(world: dict[str, str]) -> None:
    service = Service.objects.get(name="web")
    raw = {**service.spec, "labels": {"team": "crane"}, "container": {**service.spec["container"], "stop_grace": 3.0}}
    client = browser("admin")
    client.post("/services/by-name/web/edit", {"form": "raw", "raw": json.dumps(raw)}, secure=True)
    client.post("/services/by-name/web/edit", {"form": "guided", "image": "library/web:1", "replicas": "3"}, secure=True)
    spec = Service.objects.get(name="web").wanted
    assert (spec.replicas, spec.labels, spec.container.stop_grace) == (3, {"team": "crane"}, 3.0)


def test_a_stale_edit_is_refused(world: dict[str, str]) -> None:
    answer = browser("admin").post("/services/by-name/web/edit", {**FORM, "name": "web", "version": "999"}, secure=True)
    assert answer.status_code == 412


def test_scaling_and_removing(world: dict[str, str]) -> None:
    client = browser("admin")
    client.post("/services/by-name/web", {"act": "scale", "replicas": "4"}, secure=True)
    assert Service.objects.get(name="web").wanted.replicas == 4
    client.post("/services/by-name/web", {"act": "remove"}, secure=True)
    assert Service.objects.get(name="web").removed_at is not None


def test_a_join_token_is_shown_once(world: dict[str, str]) -> None:
    from controlplane.pki.cluster import ensure_authorities

    ensure_authorities()
    client = browser("admin")
    client.post("/nodes", {"act": "token", "uses": "1", "hours": "1"}, secure=True)
    assert "WHARF-1-" in client.get("/nodes", secure=True).content.decode()
    assert "WHARF-1-" not in client.get("/nodes", secure=True).content.decode()


def test_an_access_token_is_shown_once_and_works(people: Cast) -> None:
    client = browser("alice")
    client.post("/tokens", {"act": "create", "name": "ci", "days": "30"}, secure=True)
    text = client.get("/tokens", secure=True).content.decode()
    found = re.search(r"wharf_[\w-]+", text)
    assert found
    assert Client().get("/api/v1/me", headers={"Authorization": f"Bearer {found[0]}"}, secure=True).status_code == 200
    assert found[0] not in client.get("/tokens", secure=True).content.decode()


def test_the_login_does_not_redirect_to_other_hosts(people: Cast) -> None:
    for target in ("https://evil.example/", "//evil.example/", "/\\evil.example"):
        answer = Client().post("/login", {"username": "alice", "password": PASSWORD, "next": target}, secure=True)
        assert answer["Location"] == "/"


def test_a_wrong_password_is_told_apart_from_nothing(people: Cast) -> None:
    answers = [
        Client().post("/login", {"username": name, "password": "wrong"}, secure=True) for name in ("alice", "nobody-of-that-name")
    ]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert len({answer.content.count(b"wrong") for answer in answers}) == 1


def test_what_is_rehearsed_is_what_is_saved(world: dict[str, str]) -> None:
    client = browser("admin")
    Lease.objects.all().delete()  # the service's, by which its image stays whatever the rules say
    page = f"/repositories/{world['repository']}/-/policies/draft?kind=retention&keep=latest_pushed&value=1&tags=*&rehearse=1"
    text = client.get(page, secure=True).content.decode()
    assert "among the 1 newest pushes" in text
    assert "no rule keeps it" in text
    assert not Policy.objects.exists()
    later = client.get(f"{page}&later=on", secure=True).content.decode()
    assert "Nothing that is here now" in later
    assert client.post(f"{page}&later=on", {"act": "save"}, secure=True).status_code == 302
    saved = Policy.objects.get()
    assert (saved.rules, saved.since is None) == ([{"keep": "latest_pushed", "value": "1", "tags": "*"}], False)
    form = client.get(f"/repositories/{world['repository']}/-/policies/draft?policy={saved.pk}", secure=True).content.decode()
    assert '<option value="latest_pushed" selected>' in form


@pytest.mark.parametrize(
    "draft", ["kind=pruning&field=tag&operator=not_one_of&value=x", "kind=retention&keep=always", "kind=tag_limit&limit=1"]
)
def test_a_rehearsal_names_what_keeps_an_image_in_use(world: dict[str, str], draft: str) -> None:
    path = f"/repositories/{world['repository']}/-/policies/draft?{draft}&rehearse=1"
    text = browser("admin").get(path, secure=True).content.decode()
    assert "in use by <a" in text
    assert '<a href="/services/by-name/web">service web</a>' in text
    assert Service.objects.get(name="web").pk not in text


def test_a_stale_change_of_a_policy_is_refused(world: dict[str, str]) -> None:
    client = browser("admin")
    path = f"/repositories/{world['repository']}/-/policies/draft"
    client.post(f"{path}?kind=immutability&tags=v*", {"act": "save"}, secure=True)
    saved = Policy.objects.get()
    client.post(f"{path}?policy={saved.pk}&version=1&rehearse=1&tags=w*", {"act": "save"}, secure=True)
    client.post(f"{path}?policy={saved.pk}&version=1&rehearse=1&tags=x*", {"act": "save"}, secure=True)
    assert Policy.objects.get().tags == "w*"


@pytest.mark.parametrize("tail", ["policies", "policies/draft?kind=retention", "policies/draft?kind=pruning&rehearse=1"])
def test_a_stranger_makes_no_policies(world: dict[str, str], tail: str) -> None:
    client = browser("charlie")
    page = f"/repositories/{world['repository']}/-/{tail}"
    assert client.get(page, secure=True).status_code == 403
    client.post(f"/repositories/{world['repository']}/-/policies", {"act": "tags", "on": "1"}, secure=True)
    client.post(f"/repositories/{world['repository']}/-/policies", {"act": "quota", "amount": "1", "unit": "GiB"}, secure=True)
    client.post(f"/repositories/{world['repository']}/-/policies/draft?kind=immutability", {"act": "save"}, secure=True)
    client.post("/read-only", {"act": "enable", "reason": "mischief"}, secure=True)
    assert not Policy.objects.exists()
    assert not Quota.objects.exists()
    assert not ReadOnly.objects.exists()
    assert not Repository.objects.get(full_name=world["repository"]).immutable_tags
