import pytest

from agent.protocol.spec import Placement
from agent.protocol.states import Availability, NodeState, TaskState
from nodes.scheduler import explain, place
from nodes.snapshot import Restart, TaskView
from tests.unit.nodes.cluster import Cluster, spec

S = TaskState


def why(cluster: Cluster) -> str:
    cluster.settle()
    (text,) = {item.text for item in cluster.why.values()}
    return text


def test_a_task_that_no_node_takes_says_how_many_nodes_each_filter_refused() -> None:
    cluster = Cluster(2)
    cluster.node("n1", state=NodeState.SUSPECT)
    cluster.create(spec(replicas=1, placement=Placement(constraints=("node.labels.zone==a",))))
    assert why(cluster) == "no suitable node (2 nodes: 1 constraint node.labels.zone==a, 1 not ready (suspect))"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"state": NodeState.UNKNOWN}, "not ready (unknown)"),
        ({"state": NodeState.DOWN}, "not ready (down)"),
        ({"availability": Availability.PAUSE}, "paused"),
        ({"availability": Availability.PAUSE, "problems": ("disk_full",)}, "disk is full"),
        ({"availability": Availability.DRAIN, "problems": ("disk_full",)}, "drained"),
        ({"approved": False}, "awaiting approval"),
        ({"collection": "/Other/"}, "outside collection /Shared/"),
        ({"memory": 10}, "insufficient memory"),
        ({"arch": "arm64"}, "image not built for linux/arm64"),
    ],
)
def test_each_filter_refuses_in_its_own_words(fields: dict[str, object], reason: str) -> None:
    cluster = Cluster(1)
    cluster.node("n1", **{"collection": "/Shared/", **fields})
    cluster.create(spec(replicas=1, memory=100), root="/Shared/", platforms=(("linux", "amd64"),))
    assert why(cluster) == f"no suitable node (1 node: 1 {reason})"


def test_an_empty_cluster_says_what_to_do() -> None:
    assert "wharf node token" in explain(0, {})


def test_a_node_that_left_is_not_counted() -> None:
    cluster = Cluster(2)
    cluster.node("n2", state=NodeState.LEFT)
    cluster.create(spec(replicas=1, placement=Placement(constraints=("node.labels.zone==a",))))
    assert why(cluster) == "no suitable node (1 node: 1 constraint node.labels.zone==a)"


def test_a_host_port_is_given_once_per_node() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=3, port=8080))
    cluster.settle()
    assert sorted(task.node_id for task in cluster.tasks(observed=S.ASSIGNED)) == ["n1", "n2"]
    assert why(cluster) == "no suitable node (2 nodes: 2 host port 8080/tcp in use)"


def test_max_replicas_per_node() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=5, placement=Placement(max_replicas_per_node=2)))
    assert why(cluster) == "no suitable node (2 nodes: 2 max 2 replicas per node)"
    assert len(cluster.tasks(observed=S.ASSIGNED)) == 4


def test_spread_evens_out_over_label_values_first() -> None:
    cluster = Cluster(4)
    for node_id, zone in (("n1", "a"), ("n2", "b"), ("n3", "b"), ("n4", "b")):
        cluster.node(node_id, labels={"zone": zone})
    cluster.create(spec(replicas=6, placement=Placement(spread=("node.labels.zone",))))
    cluster.run()
    assert cluster.per_node() == {"n1": 3, "n2": 1, "n3": 1, "n4": 1}


def test_the_node_with_fewest_tasks_of_all_services_wins_a_tie() -> None:
    cluster = Cluster(2)
    cluster.create(spec("a", replicas=1))
    cluster.run()
    cluster.create(spec("b", replicas=1))
    cluster.run()
    assert {task.node_id for task in cluster.rows.values()} == {"n1", "n2"}


def test_a_node_where_this_version_failed_five_times_sinks() -> None:
    cluster = Cluster(2)
    cluster.create(spec(replicas=2))
    cluster.restarts = [Restart("s1", 1, "n1", 1, cluster.now - age) for age in (1, 2, 3, 4, 5)]
    cluster.settle()
    assert {task.node_id for task in cluster.tasks()} == {"n2"}
    cluster.restarts = [Restart("s1", 1, "n1", 1, cluster.now - 301) for _ in range(5)]
    cluster.scale("s1", 4)
    cluster.settle()
    assert [task.node_id for task in cluster.tasks()].count("n1") == 2


def test_reservations_of_a_stopping_task_are_held_until_it_stopped() -> None:
    cluster = Cluster(1, memory=100)
    cluster.create(spec("a", replicas=1, memory=100))
    cluster.run()
    cluster.scale("s1", 0)
    cluster.create(spec("b", replicas=1, memory=100))
    assert why(cluster) == "no suitable node (1 node: 1 insufficient memory)"
    cluster.run()
    assert len(cluster.running("s2")) == 1


def test_a_task_whose_node_is_set_is_only_checked() -> None:
    cluster = Cluster(2)
    cluster.create(spec())
    cluster.rows["t"] = TaskView("t", "s1", 1, node_id="n2", created=1.0)
    plan = place(cluster.snapshot())
    assert [(item.task_id, item.node_id) for item in plan.assignments] == [("t", "n2")]
