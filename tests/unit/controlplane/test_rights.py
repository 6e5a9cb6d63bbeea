"""The pure engine against a brute-force evaluator, and the property that a grant never takes away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.rbac.rights import Held, judge, reachable

NAMES = ["a", "b", "A1"]
PATHS = ["/", *(f"/{x}/" for x in NAMES), *(f"/{x}/{y}/" for x in NAMES for y in NAMES), "/ab/", "/a/b/a/"]
TYPES = ["Service", "Volume"]
VERBS = ["View", "Create", "Update"]
GATES = ["Privileged", "Host Bind Mounts"]

operations = st.dictionaries(
    st.sampled_from(TYPES), st.dictionaries(st.sampled_from(VERBS), st.lists(st.sampled_from(GATES), unique=True)), max_size=2
)
held = st.lists(st.builds(Held, role=st.just("r"), path=st.sampled_from(PATHS), operations=operations), max_size=6)
question = st.tuples(
    st.sampled_from(TYPES), st.sampled_from(VERBS), st.sampled_from(PATHS), st.frozensets(st.sampled_from(GATES), max_size=2)
)


def brute(grants, type_name, verb, path, gates):
    """The rule of the reference, word for word: walk up from the target, collect operations with their parameters, compare."""
    segments = [part for part in path.split("/") if part]
    places = [[part.lower() for part in segments[:n]] for n in range(len(segments) + 1)]
    allowed, parameters = False, set()
    for grant in grants:
        if [part.lower() for part in grant.path.split("/") if part] not in places:
            continue
        for kind, verbs in grant.operations.items():
            for name, given_gates in verbs.items():
                if (kind, name) == (type_name, verb):
                    allowed = True
                    parameters |= set(given_gates)
    return allowed and gates <= parameters


@given(held, question)
def test_engine_is_the_brute_force_evaluator(grants, asked):
    assert judge(grants, *asked).allowed == brute(grants, *asked)


@given(held, held, question)
def test_adding_a_grant_never_removes_a_right(grants, more, asked):
    if judge(grants, *asked).allowed:
        assert judge([*grants, *more], *asked).allowed


@given(held, question)
def test_a_refusal_names_exactly_the_missing_gates(grants, asked):
    verdict = judge(grants, *asked)
    if verdict.deciding and not verdict.allowed:
        assert judge(grants, *asked[:3], asked[3] - verdict.missing).allowed
        assert all(not judge(grants, *asked[:3], frozenset({gate})).allowed for gate in verdict.missing)


@given(held, st.sampled_from(TYPES), st.sampled_from(VERBS))
def test_reachable_prefixes_select_exactly_the_allowed_paths(grants, type_name, verb):
    prefixes = reachable(grants, type_name, verb)
    for path in PATHS:
        assert any(path.lower().startswith(prefix.lower()) for prefix in prefixes) == judge(grants, type_name, verb, path).allowed
    assert all(not a.startswith(b) for a in prefixes for b in prefixes if a != b)
