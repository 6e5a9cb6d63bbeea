"""The token service and the answers of /v2/ to every kind of caller."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest

from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Answer, Registry, digest_of
from tests.conformance.distribution.content import image
from tests.integration.registry.server import RegistryServer

Pairs = list[tuple[str, str]]


def basic(user: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()}


def plain(server: RegistryServer) -> Registry:
    return Registry(server.url)


def get_token(server: RegistryServer, query: Pairs, headers: dict[str, str] | None = None, expect: int = 200) -> Any:
    answer = plain(server).call("GET", f"/v2/token?{urlencode(query)}", headers=headers or {}, expect=expect)
    return answer.json()


def granted(answer: Any) -> dict[str, list[str]]:
    claims = jwt.decode(answer["token"], options={"verify_signature": False})
    return {item["name"]: item["actions"] for item in claims["access"]}


def bearer(answer: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {answer['token']}"}


def python_settings(server: RegistryServer, body: str) -> str:
    return server.python(
        "import django; django.setup()\n"
        "from controlplane.api.actor import SYSTEM, actor_of_user\n"
        "from controlplane.users import actions as users\n"
        "from controlplane.users.models import *\n"
        "from controlplane.rbac.models import *\n"
        "from registry.models import *\n" + body
    )


@pytest.fixture
def name(alice: Registry) -> str:
    """A private repository of Alice's with the tag v1."""
    made = alice.repository()
    push(alice, made, image(), "v1")
    return made


def test_challenge_names_realm_service_and_scope(server: RegistryServer, name: str) -> None:
    answer = plain(server).call("GET", f"/v2/{name}/manifests/v1", expect=401)
    assert answer.headers["www-authenticate"] == (
        f'Bearer realm="{server.url}/v2/token",service="wharf-registry",scope="repository:{name}:pull"'
    )
    assert answer.error_codes() == ["UNAUTHORIZED"]
    missing = plain(server).call("GET", f"/v2/{name}x/manifests/v1", expect=401)
    assert missing.status == 401, "whether it exists is none of a stranger's business"
    upload = plain(server).call("POST", f"/v2/{name}/blobs/uploads/", b"", expect=401)
    assert f'scope="repository:{name}:pull,push"' in upload.headers["www-authenticate"]


def test_token_grants_what_is_asked_and_allowed(server: RegistryServer, name: str) -> None:
    scopes: Pairs = [
        ("scope", f"repository:{name}:push,pull"),
        ("scope", "repository:charlie/own:pull,push repository:alice/new:pull,push,delete"),
        ("scope", "repository(plugin):charlie/x:pull"),
        ("scope", "weird:thing:do"),
        ("scope", "garbage"),
    ]
    answer = get_token(server, [("service", "wharf-registry"), ("account", "alice"), *scopes], basic("alice", server.password))
    assert granted(answer) == {
        name: ["pull", "push"],
        "charlie/own": [],
        "alice/new": ["delete", "pull", "push"],
        "charlie/x": [],
    }
    assert answer["token"] == answer["access_token"]
    assert answer["expires_in"] >= 60
    assert "refresh_token" not in answer


def test_anonymous_and_stranger_get_an_empty_token_not_a_refusal(server: RegistryServer, name: str) -> None:
    query = [("scope", f"repository:{name}:pull")]
    for headers in (None, basic("charlie", server.password)):
        answer = get_token(server, query, headers)
        assert granted(answer) == {name: []}
        refused = plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=bearer(answer), expect=401)
        assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    get_token(server, query, basic("alice", "wrong"), expect=401)
    get_token(server, query, basic("nobody", "wrong"), expect=401)
    get_token(server, query, {"Authorization": "Basic %%%"}, expect=401)


def test_public_repositories_need_no_login_to_pull(server: RegistryServer, alice: Registry, name: str) -> None:
    python_settings(
        server,
        "from registry.actions.repositories import update_repository\n"
        f"update_repository(SYSTEM, Repository.objects.get(full_name={name!r}), None, visibility='public')\n",
    )
    answer = get_token(server, [("scope", f"repository:{name}:pull,push")])
    assert granted(answer) == {name: ["pull"]}
    plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=bearer(answer), expect=200)
    plain(server).call("GET", f"/v2/{name}/manifests/v1", expect=200)
    plain(server).call("POST", f"/v2/{name}/blobs/uploads/", b"", expect=401)


def post_form(server: RegistryServer, form: Pairs, expect: int = 200) -> Answer:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return plain(server).call("POST", "/v2/token", urlencode(form).encode(), headers, expect=expect)


def test_docker_login_with_a_refresh_token(server: RegistryServer, name: str) -> None:
    """dockerd: GET with offline_token at login, then POST refresh_token with the scopes in one list divided by spaces."""
    login = get_token(
        server, [("offline_token", "true"), ("client_id", "docker"), ("account", "alice")], basic("alice", server.password)
    )
    refresh = login["refresh_token"]
    form = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("service", "wharf-registry"), ("client_id", "dockerd")]
    answer = post_form(server, [*form, ("scope", f"repository:{name}:push,pull repository:charlie/x:pull")]).json()
    assert granted(answer) == {name: ["pull", "push"], "charlie/x": []}
    assert answer["refresh_token"] == refresh
    plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=bearer(answer), expect=200)
    stored = python_settings(server, "print([row.secret_hash for row in RefreshToken.objects.all()])")
    assert refresh.rsplit("_", 1)[1] not in stored, "only hashes are kept"
    post_form(server, [("grant_type", "refresh_token"), ("refresh_token", refresh[:-1] + "x")], expect=401)
    post_form(server, [("grant_type", "refresh_token"), ("refresh_token", "wharfr_nothing_here")], expect=401)


def test_password_grant(server: RegistryServer, name: str) -> None:
    form = [("grant_type", "password"), ("username", "alice"), ("password", server.password), ("access_type", "offline")]
    answer = post_form(server, [*form, ("scope", f"repository:{name}:pull")]).json()
    assert granted(answer) == {name: ["pull"]}
    assert answer["refresh_token"]
    post_form(server, [("grant_type", "password"), ("username", "alice"), ("password", "no")], expect=401)
    post_form(server, [("grant_type", "authorization_code")], expect=400)


def test_basic_works_on_every_end(server: RegistryServer, name: str) -> None:
    plain(server).call("GET", "/v2/", headers=basic("alice", server.password), expect=200)
    plain(server).call("GET", "/v2/", headers=basic("alice", "wrong"), expect=401)
    plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=basic("alice", server.password), expect=200)
    stranger = plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=basic("charlie", server.password), expect=404)
    absent = plain(server).call("GET", "/v2/alice/none/manifests/v1", headers=basic("charlie", server.password), expect=404)
    assert stranger.error_codes() == absent.error_codes() == ["NAME_UNKNOWN"], (
        "what may not be seen looks as if it were not there"
    )


def test_a_reader_is_denied_by_name(server: RegistryServer, name: str) -> None:
    python_settings(
        server,
        f"repository = Repository.objects.get(full_name={name!r})\n"
        "from controlplane.rbac import actions\n"
        "actions.create_grant(SYSTEM, 'user', User.objects.get(username='bob').pk, "
        "Role.objects.get(name='Registry Read'), repository.collection)\n",
    )
    bob = basic("bob", server.password)
    plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=bob, expect=200)
    refused = plain(server).call("POST", f"/v2/{name}/blobs/uploads/", b"", headers=bob, expect=403)
    assert refused.error_codes() == ["DENIED"]
    assert "Repository Push" in refused.json()["errors"][0]["message"]
    plain(server).call("DELETE", f"/v2/{name}/manifests/v1", headers=bob, expect=403)


def test_a_revoked_grant_counts_at_once_also_for_living_tokens(server: RegistryServer, name: str) -> None:
    give = (
        f"repository = Repository.objects.get(full_name={name!r})\n"
        "from controlplane.rbac import actions\n"
        "bob = User.objects.get(username='bob').pk\n"
    )
    python_settings(
        server,
        give + "actions.create_grant(SYSTEM, 'user', bob, Role.objects.get(name='Registry Read'), repository.collection)\n",
    )
    token = bearer(get_token(server, [("scope", f"repository:{name}:pull")], basic("bob", server.password)))
    plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=token, expect=200)
    python_settings(
        server, give + "actions.delete_grant(SYSTEM, Grant.objects.get(subject_id=bob, collection=repository.collection))\n"
    )
    plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=token, expect=401)


def test_a_personal_token_is_a_password_and_a_bearer_and_keeps_its_scopes(server: RegistryServer, name: str) -> None:
    secret = python_settings(
        server,
        "alice = User.objects.get(username='alice')\n"
        f"made = users.create_token(actor_of_user(alice), alice, 'ci-{name[-6:]}', ['Repository View', 'Repository Pull'])\n"
        "print(made[1])\n",
    ).strip()
    for headers in (basic("alice", secret), {"Authorization": f"Bearer {secret}"}):
        plain(server).call("GET", f"/v2/{name}/manifests/v1", headers=headers, expect=200)
        plain(server).call("POST", f"/v2/{name}/blobs/uploads/", b"", headers=headers, expect=403)
    answer = get_token(server, [("scope", f"repository:{name}:pull,push")], basic("alice", secret))
    assert granted(answer) == {name: ["pull"]}
    plain(server).call("GET", "/v2/", headers=basic("bob", secret), expect=401)


@pytest.mark.parametrize("change", ["none algorithm", "other key", "other audience", "expired", "cut"])
def test_forged_tokens_are_refused(server: RegistryServer, name: str, change: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    good = get_token(server, [("scope", f"repository:{name}:pull")], basic("alice", server.password))["token"]
    claims = jwt.decode(good, options={"verify_signature": False})
    header = jwt.get_unverified_header(good)
    key = ec.generate_private_key(ec.SECP256R1())
    bad = {
        "none algorithm": jwt.encode(claims, None, algorithm="none", headers={"kid": header["kid"]}),
        "other key": jwt.encode(claims, key, algorithm="ES256", headers={"kid": header["kid"]}),
        "other audience": jwt.encode({**claims, "aud": "other"}, key, algorithm="ES256", headers={"kid": "unknown"}),
        "expired": python_settings(
            server,
            "import time\nfrom unittest import mock\nfrom registry import token\n"
            "with mock.patch('registry.token.bearer.time.time', lambda: 1e9):\n"
            f"    print(token.issue('', [{{'type': 'repository', 'name': {name!r}, 'actions': ['pull']}}]))\n",
        ).strip(),
        "cut": good[:-4],
    }[change]
    answer = plain(server).call("GET", f"/v2/{name}/manifests/v1", headers={"Authorization": f"Bearer {bad}"}, expect=401)
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_keys_rotate_without_a_restart(server: RegistryServer, name: str) -> None:
    query = [("scope", f"repository:{name}:pull")]
    before = get_token(server, query, basic("alice", server.password))
    new = python_settings(
        server,
        "from registry import token\nfrom registry.token import keys\nkid = keys.rotate()\n"
        "print(kid, token.issue('node/n1', [{'type': 'repository', 'name': "
        f"{name!r}, 'actions': ['pull']}}]))\n",
    ).split()
    assert jwt.get_unverified_header(new[1])["kid"] == new[0] != jwt.get_unverified_header(before["token"])["kid"]
    for text in (before["token"], new[1]):
        plain(server).call("GET", f"/v2/{name}/manifests/v1", headers={"Authorization": f"Bearer {text}"}, expect=200)


def test_create_on_push_is_for_owners_and_administrators(server: RegistryServer, alice: Registry, charlie: Registry) -> None:
    digest = alice.push_blob(alice.repository(), b"mine")
    assert digest == digest_of(b"mine")
    Registry(server.url, "alice", server.password, prefix="acme").push_blob("acme/new", b"of my organisation")
    Registry(server.url, "admin", server.password).push_blob("library/base", b"an administrator's")
    refused = plain(server).call(
        "POST", "/v2/alice/strange/blobs/uploads/", b"", headers=basic("charlie", server.password), expect=404
    )
    assert refused.error_codes() == ["NAME_UNKNOWN"]
    member = plain(server).call("POST", "/v2/acme/x/blobs/uploads/", b"", headers=basic("bob", server.password), expect=404)
    assert member.error_codes() == ["NAME_UNKNOWN"], "a member is no owner"


def test_catalog_shows_what_the_caller_can_pull(server: RegistryServer, alice: Registry, charlie: Registry, name: str) -> None:
    assert name in alice.call("GET", "/v2/_catalog?n=1000", expect=200).json()["repositories"]
    assert name not in charlie.call("GET", "/v2/_catalog?n=1000", expect=200).json()["repositories"]
    plain(server).call("GET", "/v2/_catalog", expect=401)


def test_a_mount_is_no_oracle(server: RegistryServer, alice: Registry, charlie: Registry) -> None:
    source = alice.repository()
    digest = alice.push_blob(source, b"a secret layer of alice")
    target = charlie.repository()
    for query in (f"mount={digest}&from={source}", f"mount={digest}", f"mount={digest_of(b'nowhere')}&from={source}"):
        answer = charlie.call("POST", f"/v2/{target}/blobs/uploads/?{query}", expect=202)
        assert "location" in answer.headers
    charlie.call("HEAD", f"/v2/{target}/blobs/{digest}", expect=404)


def test_encoded_slashes_and_odd_paths_reach_nothing(server: RegistryServer, name: str) -> None:
    quoted = name.replace("/", "%2F")
    for path in (
        f"/v2/{quoted}/manifests/v1",
        f"/v2//{name}/manifests/v1",
        f"/v2/{name}/../x/manifests/v1",
        "/v2/%2e%2e/tags/list",
    ):
        answer = plain(server).call("GET", path, headers=basic("alice", server.password))
        assert answer.status in {400, 404}, path
        assert json.loads(answer.body)["errors"]
