"""Fixtures for all tests of the control plane. SQLite in a temporary home, or PostgreSQL when WHARF_DATABASE_URL names one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

BROWSER = "tests/e2e/browser/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files marked `heavy` come first: one that began last would keep one worker busy while the other has nothing left."""
    heavy = {item.path for item in items if item.get_closest_marker("heavy")}
    items.sort(key=lambda item: item.path not in heavy)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several workers each gets whole files, and one gets all of the browser's: they share a product."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return BROWSER if file.startswith(BROWSER) else file

    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _clean_caches() -> Iterator[None]:
    """Throttle counters and the minute of the audit head belong to one test."""
    yield
    import sys

    if "django.core.cache" in sys.modules:
        from django.core.cache import cache

        cache.clear()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Before PostgreSQL's test database is dropped, the sessions of asyncio's worker threads are ended: nobody else can."""
    yield
    from django.db import connection

    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            cursor.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


@pytest.fixture
def people(db: Any) -> Any:
    """Alice, Bob, Charlie and the administrator: see tests.cast."""
    from tests.cast import cast

    return cast()


@pytest.fixture
def token_of(db: Any) -> Callable[..., str]:
    """`token_of(user, scopes=None)` -> a bearer token's text."""
    from controlplane.api.actor import SYSTEM
    from controlplane.api.ids import new_id
    from controlplane.users import actions

    def make(user: Any, scopes: Any = None, **options: Any) -> str:
        return actions.create_token(SYSTEM, user, new_id(), scopes, options.pop("expires", None), **options)[1]

    return make


@pytest.fixture
def api(token_of: Callable[..., str]) -> Callable[..., Any]:
    """`api(user)` -> a REST client that sends the user's token; `api()` an anonymous one."""
    from rest_framework.test import APIClient

    def make(user: Any = None, **options: Any) -> Any:
        client = APIClient(raise_request_exception=options.pop("raise_errors", True))
        if user is not None:
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {token_of(user, **options)}")
        client.default_format = "json"
        return client

    return make
