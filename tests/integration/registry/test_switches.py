"""Create on push: off until an administrator says otherwise, and a refusal says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol.errors import Denied
from controlplane.api.actor import SYSTEM
from controlplane.events.models import Event
from registry.actions.repositories import ensure_repository
from registry.actions.switches import switch
from registry.errors import RepositoryUnknown
from registry.models import Repository
from registry.queries import switches
from tests.integration.registry.crowd import Crowd

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def untouched(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del settings.REGISTRY_CREATE_ON_PUSH
    monkeypatch.delenv("WHARF_REGISTRY_CREATE_ON_PUSH", raising=False)


def test_a_push_creates_nothing_by_default(crowd: Crowd) -> None:
    assert not switches.create_on_push()
    for actor in (crowd.alice.actor, SYSTEM):
        with pytest.raises(RepositoryUnknown) as refused:
            ensure_repository(actor, "alice/web")
        assert "wharf repo create alice/web" in refused.value.detail
    assert not Repository.objects.exists()


def test_the_environment_gives_the_value_until_somebody_changes_it(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARF_REGISTRY_CREATE_ON_PUSH", "1")
    assert switches.create_on_push()
    assert ensure_repository(crowd.alice.actor, "alice/web").full_name == "alice/web"
    switch(crowd.admin.actor, create_on_push=False)
    assert not switches.create_on_push()
    assert Event.objects.filter(kind="registry.updated", data={"create_on_push": False}).count() == 1


def test_administrators_switch_while_it_runs(crowd: Crowd) -> None:
    assert crowd.admin.call("get", "registry/settings") == {"create_on_push": False}
    assert crowd.admin.call("patch", "registry/settings", {"create_on_push": True}) == {"create_on_push": True}
    assert ensure_repository(crowd.alice.actor, "alice/web").full_name == "alice/web"
    with pytest.raises(RepositoryUnknown) as refused:
        ensure_repository(crowd.charlie.actor, "alice/other")
    assert "ask the owner" in refused.value.detail
    crowd.admin.call("patch", "registry/settings", {"colour": True}, expect=400)


def test_it_is_nobody_elses_to_switch(crowd: Crowd) -> None:
    for stranger, refused in ((crowd.alice, 403), (crowd.charlie, 403), (crowd.nobody, 401)):
        stranger.call("get", "registry/settings", expect=refused)
        stranger.call("patch", "registry/settings", {"create_on_push": True}, expect=refused)
    with pytest.raises(Denied):
        switch(crowd.alice.actor, create_on_push=True)
