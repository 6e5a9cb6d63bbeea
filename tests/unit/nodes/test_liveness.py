from agent.protocol.states import NodeState
from nodes.orchestrator import judge
from nodes.orchestrator.liveness import BLIND_AFTER, INTERRUPTED_AFTER, UNKNOWN_GRACE
from nodes.snapshot import Brake, NodeLease

N = NodeState


def lease(
    node_id: str,
    state: NodeState = N.READY,
    until: float = 90.0,
    state_at: float = 0.0,
    linked: bool = True,
    web_seen: float = 1000.0,
) -> NodeLease:
    return NodeLease(node_id, state, until, state_at, linked, web_seen)


def test_a_silent_web_process_makes_its_nodes_unknown_and_only_those() -> None:
    nodes = [lease("a", web_seen=96), lease("b", web_seen=99), lease("c", N.SUSPECT, linked=False, web_seen=0)]
    nodes += [lease(f"r{i}", until=110) for i in range(20)]
    verdict = judge(nodes, now=100, looked_at=99)
    assert verdict.states == (("a", N.UNKNOWN), ("b", N.DOWN), ("c", N.DOWN))
    assert not verdict.engage


def test_a_lease_that_ran_out_makes_a_node_down() -> None:
    verdict = judge([lease("a"), lease("b", until=101), lease("c", N.SUSPECT)], now=100, looked_at=99)
    assert verdict.states == (("a", N.DOWN), ("c", N.DOWN))
    assert not verdict.engage


def test_nothing_changes_for_nodes_that_are_down_or_left() -> None:
    assert judge([lease("a", N.DOWN), lease("b", N.LEFT)], now=100, looked_at=99).states == ()


def test_after_a_blind_spell_nobody_is_declared_dead() -> None:
    verdict = judge([lease("a"), lease("b", until=101)], now=100, looked_at=100 - BLIND_AFTER - 1)
    assert verdict.states == (("a", N.UNKNOWN),)
    assert verdict.engage


def test_a_node_whose_link_closed_before_the_control_plane_restarted_is_not_given_up() -> None:
    nodes = [
        lease("a", N.SUSPECT, until=103, linked=False, web_seen=0),
        lease("b", N.SUSPECT, linked=False, web_seen=0),
        lease("c", until=103),
    ]
    restarted = judge(nodes, now=100, looked_at=100 - INTERRUPTED_AFTER - 0.1)
    assert restarted.states == (("a", N.UNKNOWN), ("b", N.UNKNOWN))
    assert not restarted.engage
    assert judge(nodes, now=100, looked_at=99).states == (("b", N.DOWN),)


def test_an_unknown_node_is_ready_again_or_down_after_six_times_the_grace() -> None:
    nodes = [lease("a", N.UNKNOWN, until=40, state_at=50), lease("b", N.UNKNOWN, until=200, state_at=50)]
    nodes.append(lease("c", N.UNKNOWN, until=200, state_at=50, linked=False))
    assert judge(nodes, now=60, looked_at=59).states == (("b", N.READY),)
    assert judge(nodes, now=50 + UNKNOWN_GRACE, looked_at=85).states == (("a", N.DOWN), ("b", N.READY))


def test_the_brake_engages_above_thirty_percent_and_at_least_three() -> None:
    def verdict(lost: int, of: int) -> bool:
        nodes = [lease(f"n{i}", until=90 if i < lost else 110) for i in range(of)]
        found = judge(nodes, now=100, looked_at=99)
        assert {state for _, state in found.states} == {N.UNKNOWN if found.engage else N.DOWN}
        return found.engage

    assert not verdict(1, 1)
    assert not verdict(2, 3)
    assert verdict(3, 9)
    assert not verdict(3, 10)
    assert verdict(4, 10)


def test_nodes_that_fell_shortly_before_count_for_the_brake() -> None:
    early = [lease(f"d{i}", N.DOWN, state_at=80) for i in range(2)]
    rest = [lease(f"r{i}", until=110) for i in range(4)]
    assert judge([*early, lease("x"), *rest], now=100, looked_at=99).engage
    older = [lease(f"d{i}", N.DOWN, state_at=60) for i in range(2)]
    assert not judge([*older, lease("x"), *rest], now=100, looked_at=99).engage


def test_the_brake_holds_for_late_ones_and_can_be_released() -> None:
    nodes = [lease("x"), *(lease(f"r{i}", until=110) for i in range(4))]
    assert judge(nodes, now=100, looked_at=99, brake=Brake(engaged_at=90)).states == (("x", N.UNKNOWN),)
    assert judge(nodes, now=100, looked_at=99, brake=Brake(engaged_at=90, released_at=95)).states == (("x", N.DOWN),)
    held = [lease("u", N.UNKNOWN, state_at=90)]
    assert judge(held, now=96, looked_at=95, brake=Brake(90, 95)).states == (("u", N.DOWN),)
