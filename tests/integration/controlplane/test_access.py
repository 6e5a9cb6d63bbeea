"""The engine over the database: the cases of the reference, visible() as one filter, and who may touch the tree."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol.errors import Conflict, Denied, InvalidInput, NotFound
from controlplane.api.actor import ANONYMOUS, SYSTEM, actor_of_user
from controlplane.rbac import actions, builtin, collections, explain, require, visible
from controlplane.rbac.models import Collection, Grant, Role, RoleVersion
from controlplane.users import actions as users

pytestmark = pytest.mark.django_db

EVERYTHING = {"Collection": {"View": [], "Create": [], "Update": [], "Delete": []}}


@pytest.fixture
def tree(people):
    prod = actions.create_collection(SYSTEM, collections.root(), "Prod")
    web = actions.create_collection(SYSTEM, prod, "Web")
    prod2 = actions.create_collection(SYSTEM, collections.root(), "Prod2")
    role = actions.create_role(SYSTEM, "Gardener", EVERYTHING)
    return {"prod": prod, "web": web, "prod2": prod2, "role": role}


def grant(kind, subject, role, collection):
    return actions.create_grant(SYSTEM, kind, subject.pk, role, collection)


def test_a_grant_covers_its_collection_and_all_below_and_nothing_beside(people, tree):
    bob = people.actor("bob")
    grant("user", people.bob, tree["role"], tree["prod"])
    for target in ("prod", "web"):
        require(bob, "Collection Create", tree[target])
    with pytest.raises(NotFound):
        require(bob, "Collection Create", tree["prod2"])  # /Prod is a prefix of /Prod2 as text, not as a path
    with pytest.raises(Denied):
        require(bob, "Collection Create")


def test_rights_come_through_teams_organisations_and_everybody(people, tree):
    bob = people.actor("bob")
    everyone = type(people.harbour).objects.get(everyone=True)
    for kind, subject in (("team", people.crane), ("org", people.harbour), ("org", everyone)):
        row = grant(kind, subject, tree["role"], tree["web"])
        assert explain(bob, "Collection Update", tree["web"]).allowed
        assert explain(people.actor("charlie"), "Collection Update", tree["web"]).allowed == (subject == everyone)
        actions.delete_grant(SYSTEM, row)
        assert not explain(bob, "Collection Update", tree["web"]).allowed


def test_no_view_is_not_found_and_view_without_the_operation_is_denied_with_the_place(people, tree):
    bob = people.actor("bob")
    with pytest.raises(NotFound):
        require(bob, "Collection Delete", tree["web"])
    grant("user", people.bob, Role.objects.get(name="View Only"), tree["prod"])
    with pytest.raises(Denied) as caught:
        require(bob, "Collection Delete", tree["web"])
    assert caught.value.extra["operation"] == "Collection Delete"
    assert caught.value.extra["collection"] == "/Prod/Web/"
    assert "/Prod/Web/ or a collection above it" in caught.value.detail


def test_visible_is_one_filter_and_equals_the_single_questions(people, tree, django_assert_num_queries):
    grant("team", people.crane, Role.objects.get(name="View Only"), tree["prod"])
    bob = people.actor("bob")
    with django_assert_num_queries(2):
        found = set(visible(bob, Collection.objects.all()).values_list("path", flat=True))
    single = {row.path for row in Collection.objects.all() if explain(bob, "Collection View", row).allowed}
    assert found == single == {"/Prod/", "/Prod/Web/", "/Shared/Private/bob/"}
    assert visible(ANONYMOUS, Collection.objects.all()).count() == 0
    assert visible(people.actor("admin"), Collection.objects.all()).count() == Collection.objects.count()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_grants_visible_equals_explain(people, tree, data):
    Grant.objects.filter(system=False).delete()
    places = list(Collection.objects.order_by("path"))
    subjects = [("user", people.bob), ("team", people.crane), ("org", people.harbour), ("user", people.charlie)]
    for _ in range(data.draw(st.integers(0, 4))):
        kind, subject = data.draw(st.sampled_from(subjects))
        row = Grant(subject_kind=kind, subject_id=subject.pk, role=tree["role"], collection=data.draw(st.sampled_from(places)))
        if not Grant.objects.filter(subject_kind=kind, subject_id=subject.pk, collection=row.collection, role=row.role).exists():
            row.save()
    for name in ("bob", "charlie", "anonymous"):
        actor = people.actor(name)
        found = set(visible(actor, Collection.objects.all(), "Collection View"))
        assert found == {row for row in places if explain(actor, "Collection View", row).allowed}


def test_scopes_filter_lists_too(people, tree):
    narrow = actor_of_user(people.admin, scopes=frozenset({"Role View"}))
    assert visible(narrow, Collection.objects.all()).count() == 0
    assert visible(narrow, Role.objects.all()).exists()


def test_unknown_operations_are_errors_not_refusals(people):
    with pytest.raises(InvalidInput, match="Servce"):
        require(people.actor("admin"), "Servce View")


def test_role_is_edited_in_place_with_versions_and_works_at_once(people, tree):
    grant("user", people.bob, tree["role"], tree["prod"])
    actions.update_role(SYSTEM, tree["role"], operations={"Collection": {"View": []}}, expected=1)
    assert not explain(people.actor("bob"), "Collection Create", tree["web"]).allowed
    assert RoleVersion.objects.get().operations == EVERYTHING
    with pytest.raises(Conflict):
        actions.delete_role(SYSTEM, tree["role"])
    with pytest.raises(Conflict):
        actions.update_role(SYSTEM, Role.objects.get(name="View Only"), operations={})


@pytest.mark.parametrize(
    "bad", [{"Nothing": {}}, {"Collection": {"Fly": []}}, {"Collection": {"View": ["Privileged"]}}, [], {"Collection": []}]
)
def test_roles_hold_catalogue_names_only(people, bad):
    with pytest.raises(InvalidInput):
        actions.create_role(SYSTEM, "Bad", bad)


def test_rename_moves_everything_below(people, tree):
    grant("user", people.bob, tree["role"], tree["web"])
    actions.rename_collection(SYSTEM, tree["prod"], "Production")
    tree["web"].refresh_from_db()
    assert tree["web"].path == "/Production/Web/"
    assert Collection.objects.get(pk=tree["prod2"].pk).path == "/Prod2/"
    assert explain(people.actor("bob"), "Collection Update", tree["web"]).allowed


def test_siblings_differ_by_more_than_case_and_fixed_places_stay(people, tree):
    with pytest.raises(Conflict):
        actions.create_collection(SYSTEM, collections.root(), "PROD")
    for name in ("", "..", "a/b", "-a", "a\n", "ä"):
        with pytest.raises(InvalidInput):
            actions.create_collection(SYSTEM, collections.root(), name)
    with pytest.raises(Conflict):
        actions.delete_collection(SYSTEM, collections.shared())
    with pytest.raises(Conflict, match="not empty"):
        actions.delete_collection(SYSTEM, tree["prod"])
    actions.delete_collection(SYSTEM, tree["web"])


def test_built_in_roles_hold_what_the_reference_says():
    full, restricted, view = (builtin.operations(name) for name in ("Full Control", "Restricted Control", "View Only"))
    for smaller, larger in ((view, restricted), (restricted, full)):
        for kind, verbs in smaller.items():
            for verb, gates in verbs.items():
                assert set(gates) <= set(larger[kind][verb])
    assert all(verb in {"View", "View Tasks", "History", "Search"} for verbs in view.values() for verb in verbs)
    assert not any(kind in full for kind in ("User", "Role", "Grant", "Token", "Team"))
    assert builtin.operations("None") == {}
    assert builtin.operations("Scheduler") == {"Node": {"View": [], "Schedule": []}}
    assert "Update" not in full["Node"]
    assert {"Exec", "Attach"} <= set(full["Container"])
    assert not {"Exec", "Attach"} & set(restricted["Container"])
    gates = {gate for verbs in restricted.values() for allowed in verbs.values() for gate in allowed}
    assert gates <= {"Bridge Networking Mode"}
    assert set(builtin.operations("Registry Read")["Repository"]) == {"View", "Pull"}
    assert "Push" in builtin.operations("Registry Read-Write")["Repository"]


def test_built_in_grant_is_made_once_and_its_removal_is_respected():
    from controlplane.rbac import seed

    built_in = Grant.objects.get(subject_kind="org", role__name="Scheduler")
    assert built_in.collection.path == "/Shared/"
    built_in.delete()
    seed.after_migrate()
    assert not Grant.objects.filter(role__name="Scheduler").exists()


def test_a_removed_users_name_gives_a_new_user_no_old_rights(people, tree):
    grant("user", people.bob, tree["role"], tree["prod"])
    users.delete_user(SYSTEM, people.bob)
    again = users.create_user(SYSTEM, "bob", None)
    assert not explain(actor_of_user(again), "Collection View", tree["prod"]).allowed


def test_a_private_collection_with_content_outlives_its_user_and_keeps_the_name(people, tree):
    inner = actions.create_collection(SYSTEM, Collection.objects.get(path="/Shared/Private/bob/"), "kept")
    users.delete_user(SYSTEM, people.bob)
    with pytest.raises(Conflict, match="earlier user"):
        users.create_user(SYSTEM, "bob", None)
    inner.refresh_from_db()
    users.delete_user(SYSTEM, people.charlie)
    assert not Collection.objects.filter(path="/Shared/Private/charlie/").exists()


# --- REST -----------------------------------------------------------------------------------------------------------------------


def test_explain_says_why_and_only_administrators_ask_about_others(api, people, tree):
    grant("team", people.crane, tree["role"], tree["prod"])
    url = "/api/v1/access/explain?operation=Collection Create&collection=/Prod/Web"
    answer = api(people.bob).get(url).json()
    assert answer["allowed"] is True
    assert answer["grants"] == [{"role": "Gardener", "collection": "/Prod/", "subject": f"team/{people.crane.pk}"}]
    assert api(people.bob).get(url + "&user=alice").status_code == 403
    refused = api(people.admin).get(url + "&user=charlie").json()
    assert (refused["allowed"], "/Prod/Web/" in refused["hint"]) == (False, True)
    assert api(people.charlie).get(url).status_code == 404
    assert api(people.bob).get("/api/v1/access/explain?operation=Nothing").status_code == 400


def test_tree_roles_and_grants_through_rest(api, people):
    client = api(people.admin)
    made = client.post("/api/v1/collections", {"parent": "/Shared", "name": "Lab"})
    assert (made.status_code, made.json()["path"]) == (201, "/Shared/Lab/")
    role = client.post("/api/v1/roles", {"name": "Looker", "operations": {"Collection": {"View": []}}})
    assert role.status_code == 201
    body = {"subject_kind": "user", "subject_id": people.charlie.pk, "role": "Looker", "collection": "/Shared/Lab"}
    first = client.post("/api/v1/grants", body)
    assert first.status_code == 201
    assert client.post("/api/v1/grants", body).status_code == 409
    assert "/Shared/Lab/" in [row["path"] for row in api(people.charlie).get("/api/v1/collections").json()]
    edited = client.patch(role["Location"], {"operations": {}}, headers={"If-Match": role["ETag"]})
    assert (edited.status_code, edited["ETag"]) == (200, '"v2"')
    assert client.get(f"{role['Location']}/versions").json()[0]["operations"] == {"Collection": {"View": []}}
    assert client.delete(role["Location"], headers={"If-Match": "*"}).status_code == 409
    assert client.delete(first["Location"], headers={"If-Match": "*"}).status_code == 204
    assert client.delete(role["Location"], headers={"If-Match": "*"}).status_code == 204
