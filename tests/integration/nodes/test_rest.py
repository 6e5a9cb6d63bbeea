"""The fleet over REST: every endpoint for its owner, and the stranger test for every endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.urls import get_resolver

from agent.protocol.messages import ActionResult, ContainerInfo, Contents
from agent.protocol.states import NodeState
from controlplane.api.routes import operations_of, walk
from controlplane.pki.cluster import ensure_authorities
from controlplane.rbac.collections import private_of, shared
from controlplane.rbac.models import Grant, Role
from nodes import actions
from nodes.models import Action, Container, Node, Service, Task
from tests.cast import Cast
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db
Client = Callable[..., Any]

SPEC = {"name": "web", "container": {"image": "library/web:1"}, "replicas": 2}


@pytest.fixture
def world(people: Cast) -> dict[str, Any]:
    """Alice has a service in her own collection with a task and a container on node n1."""
    fleet.image()
    node = fleet.node("n1")
    service = actions.create_service(people.actor("alice"), fleet.spec("alices"))
    fleet.obey()
    task = Task.objects.get()
    info = ContainerInfo("ab" * 32, "alices.1", "library/web", "i", "running", 1e9, task_id=task.pk)
    actions.record_contents(node.pk, Contents(node.epoch, (info,), ()))
    container = Container.objects.get()
    action = actions.queue_action(people.actor("alice"), node, "container_stop", info.id, collection=service.collection)
    token, _ = _token(people)
    return {"nodes": node, "services": service, "tasks": task, "containers": container, "actions": action, "join-tokens": token}


def _token(people: Cast) -> tuple[Any, str]:
    ensure_authorities()
    return actions.create_join_token(people.actor("admin"))


# Every route of the fleet: (method, path with the noun's row, body), and who is answered what. The things are Alice's.
ROUTES: list[tuple[str, str, Any, dict[str, int]]] = [
    # Everybody sees nodes below /Shared, by the built-in grant of the role Scheduler.
    ("get", "nodes", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("get", "nodes/{nodes}", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("get", "nodes/{nodes}/images", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("post", "nodes/{nodes}/images?wait=0", {"reference": "library/web:1"}, {"admin": 202, "alice": 202, "charlie": 202}),
    ("delete", "nodes/{nodes}/images?wait=0&reference=web", None, {"admin": 202, "alice": 403, "charlie": 403}),
    ("get", "nodes/{nodes}/samples", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("patch", "nodes/{nodes}", {"availability": "pause"}, {"admin": 200, "alice": 403, "charlie": 403}),
    ("post", "nodes/{nodes}/approve", {}, {"admin": 200, "alice": 403, "charlie": 403}),
    ("post", "nodes/{nodes}/end-adoption", {}, {"admin": 200, "alice": 403, "charlie": 403}),
    ("delete", "nodes/{nodes}?force=true", None, {"admin": 204, "alice": 403, "charlie": 403}),
    ("get", "cluster/brake", None, {"admin": 200, "alice": 403, "charlie": 403}),
    ("delete", "cluster/brake", None, {"admin": 204, "alice": 403, "charlie": 403}),
    ("get", "join-tokens", None, {"admin": 200, "alice": 200, "charlie": 200}),  # empty lists: see test_lists_hide
    ("get", "join-tokens/{join-tokens}", None, {"admin": 200, "alice": 404, "charlie": 404}),
    ("post", "join-tokens", {}, {"admin": 201, "alice": 403, "charlie": 403}),
    ("delete", "join-tokens/{join-tokens}", None, {"admin": 204, "alice": 404, "charlie": 404}),
    ("get", "services", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("post", "services", {"spec": SPEC}, {"admin": 201, "alice": 201, "charlie": 201}),
    ("post", "services", {"spec": SPEC, "collection": "/Shared/Private/alice"}, {"admin": 201, "alice": 201, "charlie": 404}),
    ("get", "services/{services}", None, {"admin": 200, "alice": 200, "charlie": 404}),
    ("put", "services/{services}", {"spec": {**SPEC, "name": "alices"}}, {"admin": 200, "alice": 200, "charlie": 404}),
    ("patch", "services/{services}", {"spec": {"replicas": 3}}, {"admin": 200, "alice": 200, "charlie": 404}),
    ("post", "services/{services}/scale", {"replicas": 0}, {"admin": 200, "alice": 200, "charlie": 404}),
    ("post", "services/{services}/rollback", {}, {"admin": 409, "alice": 409, "charlie": 404}),
    ("get", "services/{services}/ps", None, {"admin": 200, "alice": 200, "charlie": 404}),
    ("delete", "services/{services}", None, {"admin": 204, "alice": 204, "charlie": 404}),
    ("get", "tasks", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("get", "tasks/{tasks}", None, {"admin": 200, "alice": 200, "charlie": 404}),
    ("get", "containers", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("get", "containers/{containers}", None, {"admin": 200, "alice": 200, "charlie": 404}),
    ("get", "containers/{containers}/samples", None, {"admin": 200, "alice": 200, "charlie": 404}),
    *(
        ("post", f"containers/{{containers}}/{verb}?wait=0", {}, {"admin": 202, "alice": 202, "charlie": 404})
        for verb in ("start", "stop", "restart", "kill", "pause", "unpause")
    ),
    ("delete", "containers/{containers}?wait=0&force=true", None, {"admin": 202, "alice": 202, "charlie": 404}),
    (
        "post",
        "containers?wait=0",
        {"node": "{nodes}", "spec": {"image": "library/web:1"}},
        {"admin": 202, "alice": 202, "charlie": 202},
    ),
    ("post", "streams", {"target": "logs", "container": "{containers}"}, {"admin": 201, "alice": 201, "charlie": 404}),
    ("post", "streams", {"target": "logs", "service": "alices"}, {"admin": 201, "alice": 201, "charlie": 404}),
    (
        "post",
        "streams",
        {"target": "exec", "container": "alices.1", "args": {"command": ["sh"]}},
        {"admin": 201, "alice": 403, "charlie": 404},
    ),
    ("get", "actions", None, {"admin": 200, "alice": 200, "charlie": 200}),
    ("get", "actions/{actions}", None, {"admin": 200, "alice": 200, "charlie": 404}),
]


def filled(value: Any, world: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, world) for key, item in value.items()}
    if isinstance(value, str):
        for noun, row in world.items():
            value = value.replace(f"{{{noun}}}", row.pk)
    return value


def call(client: Any, method: str, path: str, body: Any, world: dict[str, Any]) -> Any:
    headers = {} if method == "post" else {"HTTP_IF_MATCH": "*"}
    return getattr(client, method)(f"/api/v1/{filled(path, world)}", filled(body, world), **headers)


@pytest.mark.parametrize("who", ["admin", "alice", "charlie", "anonymous"])
@pytest.mark.parametrize(
    ("method", "path", "body", "answers"), ROUTES, ids=[f"{m}-{p}-{n}" for n, (m, p, *_) in enumerate(ROUTES)]
)
def test_matrix(
    world: dict[str, Any], people: Cast, api: Client, who: str, method: str, path: str, body: Any, answers: dict[str, int]
) -> None:
    client = api(None if who == "anonymous" else getattr(people, who))
    answer = call(client, method, path, body, world)
    expected = answers.get(who, 401)
    assert answer.status_code == expected, answer.content
    if expected >= 400:
        problem = answer.json()
        assert problem["code"]
        assert problem["detail"]


def test_every_route_of_the_fleet_is_in_the_matrix() -> None:
    asked = {(method, path.partition("?")[0].replace("{", "").replace("}", "")) for method, path, *_ in ROUTES}
    nouns = ("nodes", "join-tokens", "services", "tasks", "containers", "actions", "cluster", "streams")
    for route, callback in walk(get_resolver().url_patterns):
        plain = route.removeprefix("api/v1/").replace("^", "").replace("$", "")
        if not callback.__module__.startswith("nodes.api") or plain == "nodes/join":
            continue
        noun = plain.partition("/")[0]
        assert noun in nouns, f"{route} is not in the matrix"
        path = plain.replace("(?P<pk>[A-Za-z0-9._-]+)", noun)
        actions_of = getattr(callback, "actions", None) or dict.fromkeys(operations_of(callback), "")
        for method in set(actions_of) - {"head"}:
            assert (method, path) in asked, f"{method} {path} is not in the matrix"
        assert all(operations_of(callback).values())


def test_lists_hide_what_a_stranger_may_not_see(world: dict[str, Any], people: Cast, api: Client) -> None:
    for noun in ("services", "tasks", "containers", "actions"):
        assert len(api(people.alice).get(f"/api/v1/{noun}").json()) == 1
        assert api(people.charlie).get(f"/api/v1/{noun}").json() == []
    assert api(people.alice).get("/api/v1/join-tokens").json() == []


def test_an_etag_guards_the_spec(world: dict[str, Any], people: Cast, api: Client) -> None:
    client, url = api(people.alice), f"/api/v1/services/{world['services'].pk}"
    etag = client.get(url)["ETag"]
    assert client.patch(url, {"spec": {"replicas": 3}}).status_code == 428
    first = client.patch(url, {"spec": {"replicas": 3}}, HTTP_IF_MATCH=etag)
    assert first.status_code == 200
    assert first.json()["spec"]["replicas"] == 3
    assert client.patch(url, {"spec": {"replicas": 4}}, HTTP_IF_MATCH=etag).status_code == 412
    assert Service.objects.get().wanted.replicas == 3


def test_an_idempotency_key_makes_one_service(world: dict[str, Any], people: Cast, api: Client) -> None:
    client = api(people.alice)
    answers = [client.post("/api/v1/services", {"spec": SPEC}, HTTP_IDEMPOTENCY_KEY="k1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert client.post("/api/v1/services", {"spec": {**SPEC, "name": "WEB"}}).status_code == 409


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"name": "web"}, "container"),
        ({"name": "web", "container": {"image": "library/web:1", "memry": 5}}, "container.memry"),
        ({"name": "-web", "container": {"image": "library/web:1"}}, "name"),
        (
            {"name": "web", "container": {"image": "library/web:1"}, "placement": {"constraints": ["nonsense"]}},
            "placement.constraints",
        ),
        ({"name": "web", "container": {"image": "library/web:1"}, "placement": {"spread": ["zone"]}}, "placement.spread"),
    ],
)
def test_a_bad_spec_names_the_field(world: dict[str, Any], people: Cast, api: Client, spec: Any, field: str) -> None:
    answer = api(people.alice).post("/api/v1/services", {"spec": spec})
    assert answer.status_code == 400
    assert answer.json()["field"] == field


def test_images_that_are_not_there_and_ports_that_cannot_be(world: dict[str, Any], people: Cast, api: Client) -> None:
    client = api(people.alice)
    missing = client.post("/api/v1/services", {"spec": {**SPEC, "container": {"image": "library/absent"}}})
    assert missing.status_code == 404
    ingress = {"image": "library/web:1", "ports": [{"target": 80, "published": 80, "mode": "ingress"}]}
    assert client.post("/api/v1/services", {"spec": {**SPEC, "container": ingress}}).json()["code"] == "not_supported"


GATED = [
    ({"privileged": True}, "Privileged"),
    ({"mounts": [{"type": "bind", "source": "/", "target": "/host"}]}, "Host Bind Mounts"),
    ({"network_mode": "host"}, "Host Networking Mode"),
    ({"cap_add": ["SYS_ADMIN"]}, "Additional Kernel Capabilities"),
    ({"sysctls": {"net.core.somaxconn": "1"}}, "Sysctls"),
    ({"ulimits": {"memlock": 1 << 40}}, "Ulimits"),
    ({"resources": {"pids": 0}}, "No Process Limit"),
]


@pytest.mark.parametrize(("fields", "gate"), GATED, ids=[gate for _, gate in GATED])
@pytest.mark.parametrize("way", ["create", "put", "patch"])
def test_gates_hold_on_every_way_in(
    world: dict[str, Any], people: Cast, api: Client, way: str, fields: dict[str, Any], gate: str
) -> None:
    def send(client: Any) -> Any:
        container = {"image": "library/web:1", **fields}
        if way == "create":
            return client.post(
                "/api/v1/services", {"spec": {"name": "gated", "container": container}, "collection": "/Shared/Private/alice"}
            )
        url = f"/api/v1/services/{world['services'].pk}"
        body = {"spec": {"name": "alices", "container": container}} if way == "put" else {"spec": {"container": fields}}
        return getattr(client, way)(url, body, HTTP_IF_MATCH="*")

    refused = send(api(people.alice))
    assert refused.status_code == 403
    assert refused.json()["missing_gates"] == [gate]
    Grant.objects.create(
        subject_kind="user",
        subject_id=people.alice.pk,
        role=Role.objects.get(name="Full Control"),
        collection=private_of(people.alice),
    )
    assert send(api(people.alice)).status_code in (200, 201)


def test_an_old_spec_is_no_licence(world: dict[str, Any], people: Cast, api: Client) -> None:
    """Scale and rollback judge the resulting spec by the caller's rights of today."""
    service = world["services"]
    grant = Grant.objects.create(
        subject_kind="user",
        subject_id=people.alice.pk,
        role=Role.objects.get(name="Full Control"),
        collection=private_of(people.alice),
    )
    url = f"/api/v1/services/{service.pk}"
    client = api(people.alice)
    assert client.patch(url, {"spec": {"container": {"privileged": True}}}, HTTP_IF_MATCH="*").status_code == 200
    grant.delete()
    assert client.post(f"{url}/scale", {"replicas": 2}).status_code == 403
    assert client.patch(url, {"spec": {"container": {"privileged": False}}}, HTTP_IF_MATCH="*").status_code == 200
    assert client.post(f"{url}/rollback", {}).status_code == 403


def test_without_a_right_to_schedule_nothing_is_created(world: dict[str, Any], people: Cast, api: Client) -> None:
    Grant.objects.filter(role__name="Scheduler").delete()
    answer = api(people.alice).post("/api/v1/services", {"spec": SPEC})
    assert (answer.status_code, answer.json()["code"]) == (403, "no_scheduling_right")


def test_a_waiting_request_gets_the_nodes_answer(world: dict[str, Any], people: Cast, api: Client) -> None:
    node, container = world["nodes"], world["containers"]
    Action.objects.all().delete()
    client = api(people.alice)
    from nodes.api import waiting

    original = waiting.actions.outcome

    def answered(action_id: str) -> Action:
        error = {"code": "conflict", "status": 409, "retry": False, "detail": "it does not run", "extra": {}}
        ok = Action.objects.get(pk=action_id).kind == "container_stop"
        actions.complete_action(node.pk, ActionResult(node.epoch, action_id, ok, {"exit_code": 0}, {} if ok else error))
        return original(action_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting.actions, "outcome", answered)
        done = client.post(f"/api/v1/containers/{container.container_id[:12]}/stop", {"grace": 1})
        assert (done.status_code, done.json()["result"]) == (200, {"exit_code": 0})
        failed = client.post("/api/v1/containers/alices.1/pause", {})
        assert (failed.status_code, failed.json()["detail"]) == (409, "it does not run")


def test_acts_on_a_node_that_is_down_are_refused(world: dict[str, Any], people: Cast, api: Client) -> None:
    Node.objects.update(state=NodeState.DOWN)
    answer = api(people.alice).post(f"/api/v1/containers/{world['containers'].pk}/stop", {})
    assert (answer.status_code, answer.json()["code"]) == (503, "node_unreachable")


def test_join_over_rest(people: Cast, api: Client) -> None:
    from tests.integration.nodes.test_joining import csr

    ensure_authorities()
    shown = api(people.admin).post("/api/v1/join-tokens", {"uses": 1, "cidrs": ["127.0.0.0/8"]})
    assert shown.status_code == 201
    body = {"token": shown.json()["token"], "csr": csr(), "hostname": "n9"}
    joined = api().post("/api/v1/nodes/join", body, HTTP_HOST="wharf.example:8443")
    assert joined.status_code == 201
    assert joined.json()["links"][0] == "wharf.example:8444"
    assert Node.objects.get(hostname="n9").collection == shared()
    again = api().post("/api/v1/nodes/join", body)
    assert (again.status_code, again.json()["code"]) == (403, "join_refused")
    assert api().post("/api/v1/nodes/join", {**body, "token": "x"}).status_code == 403
    assert "token" not in api(people.admin).get("/api/v1/join-tokens").json()[0]


def test_why_a_task_waits_is_shown(world: dict[str, Any], people: Cast, api: Client) -> None:
    Node.objects.update(state=NodeState.SUSPECT)
    client = api(people.alice)
    client.post("/api/v1/services", {"spec": SPEC})
    actions.reconcile_round()
    tasks = client.get("/api/v1/tasks?observed=pending").json()
    assert {task["why_pending"]["text"] for task in tasks} == {"no suitable node (1 node: 1 not ready (suspect))"}
    assert client.get("/api/v1/tasks?observed=nonsense").status_code == 400
    listed = {row["name"]: row["tasks"] for row in client.get("/api/v1/services").json()}
    assert listed == {"web": {"pending": 2}, "alices": {"running": 1}}
