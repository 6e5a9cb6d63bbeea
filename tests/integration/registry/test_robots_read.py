"""Robots at the REST interface: what their repositories hold, read only, and nothing else of the product."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from controlplane.api.actor import SYSTEM
from registry.actions import robots
from registry.actions.repositories import create_repository
from registry.api.robots_read import RobotAuthentication
from registry.models import Robot, Tag
from tests.integration.registry.crowd import Crowd, Push, repository

pytestmark = pytest.mark.django_db(transaction=True)
RIGHTS = [{"repositories": "harbour/web", "actions": ["pull"]}, {"repositories": "harbour/drop", "actions": ["push"]}]


@pytest.fixture
def ci(crowd: Crowd) -> tuple[Robot, str]:
    for name in ("harbour/web", "harbour/drop", "harbour/secret"):
        create_repository(SYSTEM, name)
    create_repository(SYSTEM, "alice/open", visibility="public")
    return robots.create_robot(crowd.alice.actor, "ci", namespace="harbour", rights=RIGHTS)


def ask(path: str, secret: str, name: str = "", method: str = "get", body: Any = None, address: str = "10.0.0.1") -> Any:
    """With the secret as bearer, or with a name as HTTP Basic."""
    given = f"Basic {base64.b64encode(f'{name}:{secret}'.encode()).decode()}" if name else f"Bearer {secret}"
    options = {} if body is None else {"data": body, "content_type": "application/json"}
    client = Client(headers={"Authorization": given}, REMOTE_ADDR=address)
    return getattr(client, method)(f"/api/v1/{path}", **options)


@pytest.mark.parametrize("name", ["", "harbour+ci"])
def test_a_robot_reads_what_its_repositories_hold(ci: tuple[Robot, str], push: Push, name: str) -> None:
    first, second = push("harbour/web", "v1"), push("harbour/web", "v2", layers=(b"other",))
    web = f"repositories/{repository('harbour/web').pk}"
    seen = ask("repositories", ci[1], name)
    assert [row["name"] for row in seen.json()] == ["alice/open", "harbour/drop", "harbour/web"], "nothing of harbour/secret"
    assert ask(web, ci[1], name).json()["name"] == "harbour/web"
    assert {row["name"] for row in ask(f"{web}/tags", ci[1], name).json()} == {"v1", "v2"}
    assert ask(f"{web}/manifests/v1", ci[1], name).json()["digest"] == first
    assert [row["after"] for row in ask(f"{web}/history", ci[1], name).json()] == [second, first]
    assert ask(f"{web}/compare?before=v1&after=v2", ci[1], name).json()["same"] is False
    at = (timezone.now() + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert len(ask(f"{web}/states?at={at}", ci[1], name).json()) == 2


def test_it_reads_no_further_than_its_rights(ci: tuple[Robot, str], push: Push) -> None:
    push("harbour/drop", "v1")
    assert ask(f"repositories/{repository('harbour/secret').pk}", ci[1]).status_code == 404
    drop = f"repositories/{repository('harbour/drop').pk}"
    assert ask(f"{drop}/tags", ci[1]).status_code == 200
    refused = ask(f"{drop}/manifests/v1", ci[1])
    assert (refused.status_code, "Repository Pull" in refused.json()["detail"]) == (403, True)


def test_it_changes_nothing(ci: tuple[Robot, str], push: Push, crowd: Crowd) -> None:
    every = [{"repositories": "harbour/*", "actions": ["pull", "push", "delete", "create"]}]
    _, secret = robots.create_robot(crowd.alice.actor, "all", namespace="harbour", rights=every)
    push("harbour/web", "v1")
    web = f"repositories/{repository('harbour/web').pk}"
    tries = (
        ("post", "repositories", {"name": "harbour/new"}),
        ("patch", web, {"description": "x"}),
        ("delete", f"{web}/tags/v1", None),
        ("delete", web, None),
    )
    for method, path, body in tries:
        answer = ask(path, secret, method=method, body=body)
        assert (answer.status_code, "/v2/" in answer.json()["detail"]) == (403, True), (method, path)
    assert Tag.objects.filter(name="v1").exists()


def test_what_is_withdrawn_is_gone_at_once_and_an_address_limit_holds(ci: tuple[Robot, str], crowd: Crowd) -> None:
    row, secret = ci
    assert ask("repositories", secret, "harbour+other").status_code == 401, "the secret counts only with its name"
    row = robots.update_robot(crowd.alice.actor, row, cidrs=["10.0.0.0/8"])
    assert ask("repositories", secret).status_code == 200
    assert ask("repositories", secret, address="192.0.2.1").status_code == 401
    fresh = robots.rotate_robot(crowd.alice.actor, row)
    assert (ask("repositories", secret).status_code, ask("repositories", fresh).status_code) == (401, 200)
    row.refresh_from_db()
    robots.update_robot(crowd.alice.actor, row, disabled=True)
    assert ask("repositories", fresh).status_code == 401
    expired = robots.create_robot(
        crowd.alice.actor, "old", namespace="harbour", rights=RIGHTS, expires_at=timezone.now() + timedelta(hours=1)
    )
    Robot.objects.filter(pk=expired[0].pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert ask("repositories", expired[1]).status_code == 401


def routes(resolver: URLResolver) -> Iterator[Any]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from routes(pattern)
        elif isinstance(pattern, URLPattern):
            yield getattr(pattern.callback, "cls", getattr(pattern.callback, "view_class", None))


def test_every_other_route_takes_its_secret_for_an_unknown_token(ci: tuple[Robot, str]) -> None:
    """Default deny: what robots may ask stands here by name."""
    views = {view for view in routes(get_resolver()) if view is not None}
    open_to = {view.__name__ for view in views if RobotAuthentication in getattr(view, "authentication_classes", ())}
    assert open_to == {"Repositories", "Compare", "States"}
    web = f"repositories/{repository('harbour/web').pk}"
    closed = ("users", "me", "tokens", "robots", "events", "services", "nodes", "jobs", "deleted-repositories", "policies")
    for path in (*closed, f"{web}/access", f"{web}/activity", f"{web}/trash"):
        assert ask(path, ci[1]).status_code in {401, 404}, path
    assert ask(f"{web}/access", ci[1]).status_code == 401
