"""Hints over a real Valkey, its absence, and its restart."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings

from controlplane.events import hints
from tests import servers


@pytest.fixture
def valkey(monkeypatch):
    with servers.valkey() as url:
        monkeypatch.setattr(settings, "IN_MEMORY", False)
        monkeypatch.setattr(settings, "REDIS_URL", url)
        monkeypatch.setattr(hints, "_publisher", hints._Publisher())
        yield url


async def test_a_hint_reaches_its_subscribers_and_no_others(valkey):
    async def first(*topics):
        subscription = hints.subscribe(*topics)
        assert (await anext(subscription)).topic == "resync"
        ready.release()
        try:
            return await asyncio.wait_for(anext(subscription), 20)
        finally:
            await subscription.aclose()

    ready = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(first("jobs")), asyncio.create_task(first("jobs", "nodes"))]
    for _ in tasks:
        await ready.acquire()
    await sync_to_async(hints.publish)("nodes", {"id": "n1"})
    await sync_to_async(hints.publish)("jobs", {"id": "j1"})
    assert await tasks[0] == hints.Hint("jobs", {"id": "j1"})
    assert await tasks[1] == hints.Hint("nodes", {"id": "n1"})


def test_publishing_without_a_server_is_silent_and_quick_to_give_up(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "IN_MEMORY", False)
    monkeypatch.setattr(settings, "REDIS_URL", f"unix://{tmp_path}/nothing.sock")
    publisher = hints._Publisher()
    monkeypatch.setattr(hints, "_publisher", publisher)
    hints.publish("jobs")
    assert publisher._away_until > 0
    attempts = []
    monkeypatch.setattr(publisher, "_client", type("C", (), {"publish": lambda *args: attempts.append(1)})())
    hints.publish("jobs")
    assert attempts == []


async def test_a_subscriber_outlives_the_servers_restart_and_is_told_to_look_again(monkeypatch):
    monkeypatch.setattr(settings, "IN_MEMORY", False)
    with servers.valkey() as url:
        monkeypatch.setattr(settings, "REDIS_URL", url)
        subscription = hints.subscribe("jobs")
        assert (await anext(subscription)).topic == "resync"
    waiting = asyncio.create_task(anext(subscription))
    with servers.valkey() as url:
        monkeypatch.setattr(settings, "REDIS_URL", url)
        assert (await asyncio.wait_for(waiting, 30)).topic == "resync"
        await subscription.aclose()


async def test_in_memory_hints_stay_in_the_process():
    subscription = hints.subscribe("jobs")
    assert (await anext(subscription)).topic == "resync"
    await sync_to_async(hints.publish)("jobs", {"id": "j"})
    assert await asyncio.wait_for(anext(subscription), 10) == hints.Hint("jobs", {"id": "j"})
    await subscription.aclose()
